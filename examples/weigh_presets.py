"""What each preset weighs and what a conversation with it holds, by the library instead of the command."""

from configs.accounting import file_bytes, parameters, stream_state
from configs.load import PRESETS, preset

for name in PRESETS:
    config = preset(name)
    rounds = config.looping.loop_default
    millions = parameters(config) / 1e6
    packed_mb = file_bytes(config) / 1e6
    state_mb = stream_state(config, rounds=rounds).total / 1e6
    print(f"{name:<16} {millions:8.1f} M parameters, {packed_mb:8.1f} MB packed, {state_mb:6.1f} MB a stream")
