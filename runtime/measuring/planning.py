"""The plan for a model on this machine, before the model is made or loaded: what `chimera plan` prints.

Memory is counted, with the engine's own buffers as the engine makes them; speed is what that engine does with
stand-in weights, if there is memory for them.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from configs import accounting
from configs.errors import UsageError
from configs.load import PRESETS, load_config
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from quant import cpu
from quant.pool import Pool
from runtime import system
from runtime.building.states import check_runnable
from runtime.engine import Engine
from runtime.measuring.exit import exit_threshold_of
from runtime.measuring.reading import Reading, ReadingSpeed
from runtime.measuring.rehearsal import Pace, Rehearsal, rehearse
from runtime.measuring.stand_in import StandIn
from runtime.model_folder import CONFIG_NAME, PACKED_SUFFIX, PackedModel, open_model
from runtime.packed_specs import with_embedding_bits
from runtime.sizing import Need, packed_bytes, state_bytes, suggestions
from runtime.system import Memory
from runtime.worker import run_records

Report: TypeAlias = dict[str, Any]
Progress: TypeAlias = Callable[[int, int], None]
DEFAULT_MODE = "default"
_READING_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is planned for."""

    source: str
    config: ModelConfig
    files_bytes: int
    files_exist: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """The machine as it was found."""

    memory: Memory
    available_bytes: int
    available_is: str
    """Why it is so much, in words."""
    cache_bytes: int
    threads: int
    threads_reason: str
    reading: ReadingSpeed


def plan_model(
    source: str,
    *,
    streams: int = 1,
    num_threads: int | None = None,
    memory_limit_bytes: int | None = None,
    embedding_bits: EmbeddingBits | None = None,
    exit_threshold: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """The plan for a preset, a config, a packed file or a model's folder."""
    if streams < 1:
        raise UsageError(f"a plan is for at least one stream, got {streams}")
    begin = time.perf_counter()
    subject = subject_of(source, embedding_bits=embedding_bits)
    check_runnable(subject.config)
    threshold = exit_threshold_of(subject.config, exit_threshold)
    ground = _ground(num_threads, memory_limit_bytes)
    need = Need(
        files_bytes=subject.files_bytes,
        state_bytes=state_bytes(subject.config, subject.config.rounds_default),
        streams=streams,
        buffer_bytes=0,
        program_bytes=system.own_bytes(),
    )
    rehearsal = Rehearsal(paces=(), was_shared=False)
    if need.total_bytes <= ground.available_bytes:
        need, rehearsal = _rehearsed(
            subject.config, need, ground, exit_threshold=threshold, progress=progress
        )
    took_s = round(time.perf_counter() - begin, 2)
    return _report(subject, ground, need, rehearsal) | {"exit_threshold": threshold, "took_s": took_s}


def subject_of(source: str, *, embedding_bits: EmbeddingBits | None) -> Subject:
    """The config that a source means, and the size that its files have or would have."""
    if source in PRESETS or not _is_packed(Path(source)):
        config = with_embedding_bits(load_config(source), embedding_bits)
        return Subject(source=source, config=config, files_bytes=packed_bytes(config), files_exist=False)
    model = open_model(source)
    config = with_embedding_bits(model.config, embedding_bits)
    if config != model.config:
        return Subject(source=source, config=config, files_bytes=packed_bytes(config), files_exist=False)
    return Subject(source=source, config=config, files_bytes=_bytes_on_disk(model), files_exist=True)


def _is_packed(path: Path) -> bool:
    """Whether a path names packed weights: a file of them, or a folder that holds more than a config."""
    if not path.is_dir():
        return path.suffix == PACKED_SUFFIX
    return not (path / CONFIG_NAME).is_file() or any(path.glob(f"*{PACKED_SUFFIX}"))


def _bytes_on_disk(model: PackedModel) -> int:
    """The files of a model; routed experts that are still to come are counted as their tensors."""
    size = model.file.path.stat().st_size
    if model.holding == "all tensors":
        return size
    experts = model.folder / model.config.files.moe
    routed = (
        experts.stat().st_size if experts.is_file() else accounting.file_bytes(model.config, experts=True)
    )
    return size + routed


def _ground(num_threads: int | None, memory_limit_bytes: int | None) -> Ground:
    memory, cache_bytes = system.memory(), system.cache_bytes()
    available, why = memory.available_bytes, memory.reason
    if memory_limit_bytes is not None and memory_limit_bytes < available:
        available, why = memory_limit_bytes, "the limit that was asked for"
    with Pool(run_records, num_threads=num_threads) as pool:
        return Ground(
            memory=memory,
            available_bytes=available,
            available_is=why,
            cache_bytes=cache_bytes,
            threads=pool.num_threads,
            threads_reason=pool.reason,
            reading=Reading(pool).speed(seconds=_READING_SECONDS),
        )


def _rehearsed(
    config: ModelConfig,
    need: Need,
    ground: Ground,
    *,
    exit_threshold: float,
    progress: Progress | None,
) -> tuple[Need, Rehearsal]:
    """The need with what the engine takes for itself; and its speeds, if there is room for all that."""
    stand_in = StandIn(config, cache_bytes=ground.cache_bytes)
    before = system.own_bytes()
    with Engine(stand_in.model, num_threads=ground.threads) as engine:
        tables = max(0, system.own_bytes() - before)
        need = replace(need, buffer_bytes=engine.buffer_bytes, program_bytes=need.program_bytes + tables)
        depths = [
            rounds
            for rounds in _modes(config).values()
            if _at_depth(need, config, rounds).total_bytes <= ground.available_bytes
        ]
        if not depths:
            return need, Rehearsal(paces=(), was_shared=False)
        stand_in.fill_rings()
        return need, rehearse(engine, depths, exit_threshold=exit_threshold, progress=progress)


def _modes(config: ModelConfig) -> dict[str, int]:
    """The rounds of each mode, the shallowest first; and those of a model that is told nothing."""
    modes = {name: mode.loops for name, mode in config.modes.items()} if config.looping.enabled else {}
    if config.rounds_default not in modes.values():
        modes[DEFAULT_MODE] = config.rounds_default
    return dict(sorted(modes.items(), key=lambda mode: mode[1]))


def _at_depth(need: Need, config: ModelConfig, rounds: int) -> Need:
    return replace(need, state_bytes=state_bytes(config, rounds))


def _report(subject: Subject, ground: Ground, need: Need, rehearsal: Rehearsal) -> Report:
    config, available = subject.config, ground.available_bytes
    fits = need.total_bytes <= available
    paces = {pace.rounds: pace for pace in rehearsal.paces}
    changes = (
        [] if fits else suggestions(config, need, rounds=config.rounds_default, available_bytes=available)
    )
    return {
        "source": subject.source,
        "name": config.name_or_path,
        "parameters": accounting.parameters(config),
        "embedding_bits": config.quantization.embedding_bits,
        "fits": fits,
        "machine": _machine(ground, was_shared=ground.reading.was_shared or rehearsal.was_shared),
        "memory": {
            "files_bytes": need.files_bytes,
            "files_exist": subject.files_exist,
            "state_bytes": need.state_bytes,
            "streams": need.streams,
            "buffer_bytes": need.buffer_bytes or None,
            "program_bytes": need.program_bytes,
            "needed_bytes": need.total_bytes,
            "available_bytes": available,
            "available_is": ground.available_is,
        },
        "modes": [
            {
                "name": name,
                "rounds": rounds,
                "stated_tokens_per_s": config.modes[name].tps or None if name in config.modes else None,
                **_memory_of_mode(_at_depth(need, config, rounds), available=available),
                **_speed_of_mode(config, rounds, ground=ground, pace=paces.get(rounds), need=need),
            }
            for name, rounds in _modes(config).items()
        ],
        "suggestions": [asdict(change) for change in changes],
    }


def _machine(ground: Ground, *, was_shared: bool) -> Report:
    return {
        "cpu": system.cpu_name(),
        "target": cpu.target().name,
        "threads": ground.threads,
        "threads_reason": ground.threads_reason,
        "cache_bytes": ground.cache_bytes or None,
        "memory_bytes": ground.memory.total_bytes,
        "read_bytes_per_s": round(ground.reading.bytes_per_s),
        "was_shared": was_shared,
    }


def _memory_of_mode(need: Need, *, available: int) -> Report:
    return {
        "state_bytes": need.state_bytes,
        "needed_bytes": need.total_bytes,
        "fits": need.total_bytes <= available,
    }


def _speed_of_mode(
    config: ModelConfig, rounds: int, *, ground: Ground, pace: Pace | None, need: Need
) -> Report:
    """Tokens a second; none where nothing could be rehearsed. Streams take turns, so they share them."""
    token_bytes = accounting.bytes_per_token(config, rounds=rounds) + state_bytes(config, rounds)
    # What the caches keep is not read from memory, and its bytes set no bound.
    is_bound = token_bytes > ground.cache_bytes
    bound = ground.reading.bytes_per_s / token_bytes if is_bound else None
    return {
        "bytes_per_token": token_bytes,
        "bound_tokens_per_s": bound,
        "share_of_bound": None if pace is None or bound is None else 1 / pace.begin_s / bound,
        "decode_tokens_per_s": None if pace is None else 1 / pace.begin_s,
        "far_decode_tokens_per_s": None if pace is None else 1 / pace.far_s,
        "stream_tokens_per_s": None if pace is None else 1 / pace.far_s / need.streams,
        "prefill_tokens_per_s": None if pace is None else 1 / pace.prompt_s,
        "speed_is": None if pace is None else "measured" if pace.is_measured else "interpolated",
    }
