"""Whether a model fits a machine's memory, and what would."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast, get_args

from configs import accounting
from configs.errors import NotEnoughMemory
from configs.load import PRESETS, preset, to_json
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from quant.container_format import DIGEST_CHARACTERS, header_bytes, stored_parts
from runtime.packed_specs import packed_specs, with_embedding_bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Memory that a process with a model and its streams takes."""

    files_bytes: int
    """Mapped files; they are read where they lie, so all of them should find room."""
    state_bytes: int
    """Of one stream."""
    streams: int
    buffer_bytes: int
    """The engine's own, shared by all streams."""
    program_bytes: int
    """Python, the compiled kernels and the tables of the program."""
    screen_bytes: int = 0
    """The coarse copy of the head, where one may be made."""

    @property
    def states_bytes(self) -> int:
        """Of all streams; beside them there is one copy of a state, that of the stream which talks."""
        return (self.streams + 1) * self.state_bytes

    @property
    def total_bytes(self) -> int:
        """All of it."""
        own = self.buffer_bytes + self.program_bytes + self.screen_bytes
        return self.files_bytes + self.states_bytes + own


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """A change with which it fits."""

    change: str
    needed_bytes: int


def check_fits(need: Need, *, limit_bytes: int) -> int:
    """Refuse what does not fit under a limit; gives the bytes that are left."""
    left = limit_bytes - need.total_bytes
    if left >= 0:
        return left
    parts = {
        "the program": need.program_bytes,
        "the files": need.files_bytes,
        "buffers": need.buffer_bytes,
        "the state and a copy of it": need.states_bytes,
        "the screen": need.screen_bytes,
    }
    listed = ", ".join(f"{_mib(num_bytes)} for {what}" for what, num_bytes in parts.items() if num_bytes)
    # Before the engine is built, nobody has counted its buffers.
    least = "" if need.buffer_bytes else "at least "
    raise NotEnoughMemory(
        f"{least}{_mib(need.total_bytes)} are needed: {listed}; the limit is {limit_bytes // 2**20:,} MiB",
        hint="Raise the limit, take fewer rounds of the loop, or take a smaller model.",
    )


def packed_bytes(config: ModelConfig) -> int:
    """The size of the packed file that a config would have: its header and all tensors."""
    specs = packed_specs(config)
    parts = [part for spec in specs for part in stored_parts(spec)]
    digests = {part.name: "0" * DIGEST_CHARACTERS for part in parts}
    header = header_bytes(specs, config=to_json(config), metadata={}, digests=digests)
    return len(header) + sum(part.num_bytes for part in parts)


def state_bytes(config: ModelConfig, rounds: int) -> int:
    """The state of one stream in so many rounds."""
    return accounting.stream_state(config, rounds=rounds).total


def suggestions(config: ModelConfig, need: Need, *, rounds: int, available_bytes: int) -> list[Suggestion]:
    """What fits in place of what does not, the smallest change first."""
    found = [*_fewer(config, need, rounds=rounds, available_bytes=available_bytes)]
    return found or [*_presets(config, need, available_bytes=available_bytes)]


def _fewer(config: ModelConfig, need: Need, *, rounds: int, available_bytes: int) -> Iterator[Suggestion]:
    """Fewer streams, rounds or bits; each alone, and if that is too little, bits and one stream together."""
    fixed = need.total_bytes - need.streams * need.state_bytes
    streams = min(need.streams, (available_bytes - fixed) // need.state_bytes)
    if 1 <= streams < need.streams:
        yield Suggestion(change=f"--streams {streams}", needed_bytes=fixed + streams * need.state_bytes)
    least = config.looping.loop_range[0] if config.looping.enabled else 1
    if least < rounds:
        states = (need.streams + 1) * (need.state_bytes - state_bytes(config, least))
        if need.total_bytes - states <= available_bytes:
            yield Suggestion(
                change=f"{least} rounds of the loop (chimera-run --loops {least})",
                needed_bytes=need.total_bytes - states,
            )
    spared_streams = (need.streams - 1) * need.state_bytes
    for bits in sorted(cast("tuple[EmbeddingBits, ...]", get_args(EmbeddingBits)), reverse=True):
        if bits >= config.quantization.embedding_bits:
            continue
        spared = accounting.file_bytes(config) - accounting.file_bytes(with_embedding_bits(config, bits))
        if need.total_bytes - spared <= available_bytes:
            yield Suggestion(change=f"--embedding-bits {bits}", needed_bytes=need.total_bytes - spared)
        elif spared_streams and need.total_bytes - spared - spared_streams <= available_bytes:
            yield Suggestion(
                change=f"--embedding-bits {bits} --streams 1",
                needed_bytes=need.total_bytes - spared - spared_streams,
            )


def _presets(config: ModelConfig, need: Need, *, available_bytes: int) -> Iterator[Suggestion]:
    """The largest preset that fits, with as many streams, or else with one."""
    whole = accounting.file_bytes(config)
    for streams in dict.fromkeys((need.streams, 1)):
        for name in PRESETS:
            other = preset(name)
            files = accounting.file_bytes(other)
            # A smaller model's buffers are no larger.
            needed = Need(
                files_bytes=files,
                state_bytes=state_bytes(other, other.rounds_default),
                streams=streams,
                buffer_bytes=need.buffer_bytes,
                program_bytes=need.program_bytes,
            ).total_bytes
            if files < whole and needed <= available_bytes:
                change = f"the preset {name}" + (f" with --streams {streams}" if need.streams > 1 else "")
                yield Suggestion(change=change, needed_bytes=needed)
                return


def _mib(num_bytes: int) -> str:
    """Rounded up: what is told is enough."""
    return f"{-(-num_bytes // 2**20):,} MiB"
