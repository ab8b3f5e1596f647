"""The plan for a model on this machine, before the model is made or loaded: what `chimera plan` prints.

Memory is counted, with the engine's own buffers as the engine makes them; speed is what that engine does with
stand-in weights, if there is memory for them.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from configs import accounting
from configs.errors import UsageError
from configs.load import PRESETS, load_config
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from quant import cpu
from runtime import system
from runtime.building.states import check_runnable
from runtime.engine import Engine
from runtime.machine import Speeds, measure_speeds
from runtime.model_folder import CONFIG_NAME, PACKED_SUFFIX, PackedModel, open_model
from runtime.packed_specs import with_embedding_bits
from runtime.rehearsal import Pace, rehearse
from runtime.sizing import Need, packed_bytes, state_bytes, suggestions
from runtime.stand_in import StandIn
from runtime.system import Memory

Report: TypeAlias = dict[str, Any]
Progress: TypeAlias = Callable[[int, int], None]
DEFAULT_MODE = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is planned for: a config, and the size of its files."""

    config: ModelConfig
    files_bytes: int
    is_packed: bool
    """The size is that of files which exist."""


def plan_model(
    source: str,
    *,
    streams: int = 1,
    num_threads: int | None = None,
    memory_limit_bytes: int | None = None,
    embedding_bits: EmbeddingBits | None = None,
    progress: Progress | None = None,
) -> Report:
    """The plan for a preset, a config, a packed file or a model's folder."""
    if streams < 1:
        raise UsageError(f"a plan is for at least one stream, got {streams}")
    begin = time.perf_counter()
    subject = subject_of(source, embedding_bits=embedding_bits)
    config = subject.config
    check_runnable(config)
    cache_bytes = system.cache_bytes()
    memory = system.memory()
    speeds = measure_speeds(num_threads=num_threads, cache_bytes=cache_bytes)
    available_bytes, reason = _available(memory, memory_limit_bytes)
    need = Need(
        files_bytes=subject.files_bytes,
        state_bytes=state_bytes(config, config.rounds_default),
        streams=streams,
        buffer_bytes=0,
        program_bytes=system.own_bytes(),
    )
    paces: dict[int, Pace] = {}
    was_shared = speeds.was_shared
    if need.total_bytes <= available_bytes:
        stand_in = StandIn(config, cache_bytes=cache_bytes)
        before = system.own_bytes()
        with Engine(stand_in.model, num_threads=num_threads) as engine:
            need = dataclasses.replace(
                need,
                buffer_bytes=engine.buffer_bytes,
                program_bytes=need.program_bytes + max(0, system.own_bytes() - before),
            )
            fitting = [
                rounds
                for rounds in set(_modes(config).values())
                if _with_rounds(need, config, rounds).total_bytes <= available_bytes
            ]
            if need.total_bytes <= available_bytes:
                stand_in.fill_rings()
                rehearsal = rehearse(engine, fitting, progress=progress)
                paces = {pace.rounds: pace for pace in rehearsal.paces}
                was_shared = was_shared or rehearsal.was_shared
    fits = need.total_bytes <= available_bytes
    found = [] if fits else suggestions(
        config, need, rounds=config.rounds_default, available_bytes=available_bytes
    )
    return {
        "source": source,
        "name": config.name_or_path,
        "parameters": accounting.parameters(config),
        "embedding_bits": config.quantization.embedding_bits,
        "fits": fits,
        "machine": _machine(speeds, memory=memory, cache_bytes=cache_bytes, was_shared=was_shared),
        "memory": {
            "files_bytes": need.files_bytes,
            "files_exist": subject.is_packed,
            "state_bytes": need.state_bytes,
            "streams": streams,
            "copied_state_bytes": need.state_bytes,
            "buffer_bytes": need.buffer_bytes or None,
            "program_bytes": need.program_bytes,
            "needed_bytes": need.total_bytes,
            "available_bytes": available_bytes,
            "available_is": reason,
        },
        "modes": [
            _mode(name, rounds, config=config, need=need, speeds=speeds, pace=paces.get(rounds))
            | {"fits": _with_rounds(need, config, rounds).total_bytes <= available_bytes}
            for name, rounds in _modes(config).items()
        ],
        "suggestions": [dataclasses.asdict(suggestion) for suggestion in found],
        "took_s": round(time.perf_counter() - begin, 2),
    }
