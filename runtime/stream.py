"""One stream of tokens through an engine: its state, the ids it stands for, and ways back.

The ids are the truth, and states are kept only to save time: any position can be gone back to, from the last
state kept before it and by reading again what follows. Prefill gives the bits that steps gave, so nothing
tells a stream that went back from one that never went on.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Protocol, Self

Progress = Callable[[int, int], None]
"""Is given how many tokens of a prompt are read, and how many there are."""

SLICE_TOKENS = 512
"""A prompt is read in parts of this size, with a look between them at whether to stop."""
KEPT_BYTES = 256 * 2**20
"""Memory for states that are kept; one is kept whatever its size."""


class StreamState(Protocol):
    """What an engine keeps of a stream."""

    @property
    def position(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    def copy(self) -> Self: ...


class Runner(Protocol):
    """The part of the engine that a stream uses, by whatever kind of state it has."""

    def begun(self, rounds: int | None) -> StreamState: ...

    def read(self, state: StreamState, ids: Sequence[int], *, exit_threshold: float) -> None: ...


class Stream:
    """Ids that were accepted, and a state that has read the first of them; the others wait."""

    def __init__(
        self,
        runner: Runner,
        *,
        rounds: int | None = None,
        exit_threshold: float = 0.0,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._runner, self._rounds, self._exit_threshold = runner, rounds, exit_threshold
        self._kept_bytes = kept_bytes
        self._kept: list[StreamState] = []
        self._ids = array("I")
        self._state = runner.begun(rounds)

    @property
    def position(self) -> int:
        """How many ids the stream holds; the next one gets this position."""
        return len(self._ids)

    @property
    def num_waiting(self) -> int:
        """How many of the ids the state has not read."""
        return len(self._ids) - self._state.position

    @property
    def state_bytes(self) -> int:
        """Memory of the state; of each state that is kept as well."""
        return self._state.num_bytes

    @property
    def state(self) -> StreamState:
        """The state itself, to be looked at."""
        return self._state

    def ids(self, first: int = 0) -> Sequence[int]:
        """The ids from a position on."""
        return self._ids[first:]

    def recent(self, count: int) -> Sequence[int]:
        """The last ids."""
        return self._ids[-count:] if count else ()

    def accept(self, ids: Sequence[int]) -> None:
        """Add ids, which wait to be read."""
        self._ids.extend(ids)

    def catch_up(
        self, *, is_cancelled: Callable[[], bool] | None = None, progress: Progress | None = None
    ) -> bool:
        """Read all that waits. False where it was cancelled before the end; what was read stays read."""
        total = self.num_waiting
        while self.num_waiting:
            if is_cancelled is not None and is_cancelled():
                return False
            # The state says how far it is, also after an interrupt came between it and us.
            read = self._state.position
            part = self._ids[read : read + SLICE_TOKENS]
            self._runner.read(self._state, part, exit_threshold=self._exit_threshold)
            if progress is not None:
                progress(total - self.num_waiting, total)
        return True

    def keep(self) -> None:
        """Keep a copy of the state as it is, for `rewind`. The oldest are given up where memory ends."""
        if self._kept and self._kept[-1].position == self._state.position:
            return
        self._kept.append(self._state.copy())
        del self._kept[: -max(1, self._kept_bytes // max(1, self.state_bytes))]

    def wait_for_last(self) -> None:
        """Have the last id read once more: an engine knows the logits of what it read last alone."""
        last = self._ids[-1:]
        self.rewind(len(self._ids) - 1)
        self._ids.extend(last)

    def rewind(self, position: int) -> None:
        """Go back to a position. What the state has to read again for it waits."""
        assert 0 <= position <= len(self._ids), "a stream goes back, not on"
        del self._ids[position:]
        if self._state.position <= position:
            return
        while self._kept and self._kept[-1].position > position:
            self._kept.pop()
        self._state = self._kept[-1].copy() if self._kept else self._runner.begun(self._rounds)
