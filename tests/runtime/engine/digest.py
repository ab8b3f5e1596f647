"""Prints one digest of all that an engine gives on a model; run by a test for the code of other CPUs."""

import hashlib
import sys
from pathlib import Path

from runtime.engine import Engine
from tests.runtime.engine.models import mixing_threshold, tokens_of


def digest_of(path: Path) -> str:
    """Of the logits behind a prompt, through a loop that tokens leave, and of the state at the end."""
    found = hashlib.sha256()
    with Engine.open(path, num_threads=2) as engine:
        rounds = engine.config.rounds_most
        ids = tokens_of(engine.config, 60)
        threshold = mixing_threshold(engine, ids[:12]) if rounds > 1 else 0.0
        state = engine.new_state(rounds)
        engine.prefill(state, ids[:50], exit_threshold=threshold)
        for token in ids[50:]:
            engine.step(state, int(token))
            found.update(engine.logits().tobytes())
        found.update(state.arena.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    print("\n".join(digest_of(Path(argument)) for argument in sys.argv[1:]))
