"""One stream of tokens through an engine: its state, the ids it stands for, and ways back.

The ids are the truth, and states are kept only to save time: any position can be gone back to, from the last
state kept before it and by reading again what follows. Prefill gives the bits that steps gave, so nothing
tells a stream that went back from one that never went on.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.interrupts import held_back
from runtime.streams.kept import KeptState, KeptStates, Outlook, StreamState

Progress = Callable[[int, int], None]
"""Is given how many tokens of a prompt are read, and how many there are."""

SLICE_TOKENS = 512
"""A prompt is read in parts of this size, with a look between them at whether to stop."""
KEPT_BYTES = 256 * 2**20
"""Memory for states that are kept; one is kept whatever its size."""
SPACING = 1024
"""Tokens from one kept state to the next, as long as memory holds them all."""


class Runner(Protocol):
    """The part of the engine that a stream uses, by whatever kind of state it has."""

    def begun(self, rounds: int | None) -> StreamState: ...

    def read(
        self,
        state: StreamState,
        ids: Sequence[int],
        *,
        exit_threshold: float,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Read ids; fewer where it is cancelled meanwhile. The state's position tells how many."""
        ...

    def outlook(self, state: StreamState) -> Outlook | None:
        """What the head is about to be given, if this state was the last to read."""
        ...

    def recall(self, state: StreamState, outlook: Outlook) -> None:
        """Have the head be given it again, as if this state had just read."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """A stream at some moment. It costs a state's memory and four bytes a token, and nobody writes it."""

    ids: Sequence[int]
    state: StreamState
    """It has read the first of the ids; the others wait."""
    outlook: Outlook | None

    @property
    def position(self) -> int:
        """How many ids the stream held."""
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return self.state.num_bytes + 4 * len(self.ids) + len(self.outlook or b"")


class Stream:
    """Ids that were accepted, and a state that has read the first of them; the others wait."""

    def __init__(
        self,
        runner: Runner,
        *,
        rounds: int | None = None,
        exit_threshold: float = 0.0,
        kept_bytes: int = KEPT_BYTES,
        spacing: int = SPACING,
    ) -> None:
        self._runner, self._rounds, self._exit_threshold = runner, rounds, exit_threshold
        self._kept = KeptStates(budget_bytes=kept_bytes, spacing=spacing)
        self._ids = array("I")
        self._state = runner.begun(rounds)
        self._outlook: tuple[int, Outlook] | None = None
        """What was given back with a state, and where that state was: once it has read on, it is old."""

    @property
    def position(self) -> int:
        """How many ids the stream holds; the next one gets this position."""
        return len(self._ids)

    @property
    def num_waiting(self) -> int:
        """How many of the ids the state has not read."""
        return len(self._ids) - self._state.position

    @property
    def exit_threshold(self) -> float:
        """The change of a round below which a token leaves the loop."""
        return self._exit_threshold

    @property
    def state_bytes(self) -> int:
        """Memory of the state; of each state that is kept as well."""
        return self._state.num_bytes

    @property
    def kept_bytes(self) -> int:
        """Memory of the states that are kept."""
        return self._kept.num_bytes

    @property
    def num_bytes(self) -> int:
        """All memory of the stream."""
        return self._state.num_bytes + self._kept.num_bytes + self._ids.itemsize * len(self._ids)

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

    def next_part(self, most: int) -> Sequence[int]:
        """What is to be read next: ids that wait, up to a number and to where a state is kept."""
        read = self._state.position
        border = self._kept.last_position + self._kept.spacing
        return self._ids[read : min(read + most, border) if border > read else read + most]

    def has_read(self) -> None:
        """Tell the stream that its state has read on; a state is kept where one is due."""
        self._outlook = None
        if self._kept.wants(self._state):
            self._keep(is_mark=False)

    def catch_up(
        self, *, is_cancelled: Callable[[], bool] | None = None, progress: Progress | None = None
    ) -> bool:
        """Read all that waits. False where it was cancelled before the end; what was read stays read."""
        total = self.num_waiting
        while self.num_waiting:
            if is_cancelled is not None and is_cancelled():
                return False
            # The state says how far it is, also after an interrupt came between it and us.
            part = self.next_part(SLICE_TOKENS)
            try:
                self._runner.read(
                    self._state, part, exit_threshold=self._exit_threshold, is_cancelled=is_cancelled
                )
            except BaseException:
                self.heal()
                raise
            self.has_read()
            if progress is not None:
                progress(total - self.num_waiting, total)
        return True

    def keep(self) -> None:
        """Keep a copy of the state as it is, for `rewind`. Others are given up where memory ends."""
        self.heal()
        if self._kept.last_position == self._state.position and self._kept.marked():
            return
        self._keep(is_mark=True)

    def look_out(self) -> None:
        """Have the head be given what the last id left, mostly without reading anything."""
        assert not self.num_waiting, "who waits looks out once it has read"
        outlook = self._outlook_now()
        if outlook is None:
            self.wait_for_last()
        else:
            self._runner.recall(self._state, outlook)

    def wait_for_last(self) -> None:
        """Have the last id read once more."""
        with held_back():
            last = self._ids[-1:]
            self.rewind(len(self._ids) - 1)
            self._ids.extend(last)

    def num_replayed(self, position: int) -> int:
        """How many tokens `rewind` to a position leaves to be read again."""
        if self._state.position <= position:
            return position - self._state.position
        kept = self._kept.nearest(position)
        return position - (kept.position if kept else 0)

    def rewind(self, position: int) -> None:
        """Go back to a position. What the state has to read again for it waits."""
        assert 0 <= position <= len(self._ids), "a stream goes back, not on"
        self.heal()
        if self._state.position > position:
            self._kept.cut(position)
            self._go_back(position)
        # Last, so that the state has never read what the stream does not hold.
        del self._ids[position:]

    def snapshot(self) -> Snapshot:
        """The stream as it is, to be restored, forked or written to a file."""
        self.heal()
        return Snapshot(ids=self._ids[:], state=self._state.copy(), outlook=self._outlook_now())

    def restore(self, snapshot: Snapshot) -> None:
        """Be as the stream was. States kept since then that do not lead there are forgotten."""
        same = self._num_same(snapshot.ids)
        self._kept.cut(min(same, snapshot.state.position))
        ids, state = array("I", snapshot.ids), snapshot.state.copy()
        with held_back():
            self._ids, self._state = ids, state
            self._outlook = _placed(snapshot.outlook, state)

    def fork(self) -> "Stream":
        """Another stream that goes its own way from here; states that are kept are shared."""
        self.heal()
        other = Stream.__new__(Stream)
        other._runner, other._rounds, other._exit_threshold = self._runner, self._rounds, self._exit_threshold
        other._kept, other._ids = self._kept.copy(), self._ids[:]
        other._state = self._state.copy()
        other._outlook = _placed(self._outlook_now(), other._state)
        return other

    def heal(self) -> None:
        """Leave a state that was broken off, so that what was read since a sound one waits again."""
        if self._state.is_broken_off:
            self._go_back(self._state.position)

    def _go_back(self, position: int) -> None:
        """Have the state be the last that was kept before a position."""
        kept = self._kept.nearest(position)
        state = kept.state.copy() if kept else self._runner.begun(self._rounds)
        self._outlook = None  # before the state: the old one's is not the new one's
        self._state = state
        self._outlook = _placed(kept.outlook if kept else None, state)

    def _keep(self, *, is_mark: bool) -> None:
        if self._state.position:
            kept = KeptState(state=self._state.copy(), outlook=self._outlook_now(), is_mark=is_mark)
            self._kept.cut(self._state.position - 1)
            self._kept.add(kept)

    def _outlook_now(self) -> Outlook | None:
        if self._outlook is not None and self._outlook[0] == self._state.position:
            return self._outlook[1]
        return self._runner.outlook(self._state)

    def _num_same(self, ids: Sequence[int]) -> int:
        """How many ids at the beginning are the same."""
        most = min(len(ids), len(self._ids))
        given = array("I", ids[:most])
        if given == self._ids[:most]:
            return most
        return next(place for place in range(most) if given[place] != self._ids[place])


def _placed(outlook: Outlook | None, state: StreamState) -> tuple[int, Outlook] | None:
    return None if outlook is None else (state.position, outlook)
