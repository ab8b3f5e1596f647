"""States that a stream keeps on its way, so that going back reads little again.

There is room for so many bytes. While they hold, there is a state at every border of so many tokens. Then
states are given up one by one: the one whose loss is least felt, measured by the gap that it leaves over the
way back to that gap. So they stand close together near the end and far apart near the beginning, and with two
of them for each doubling of the text, who goes back `d` tokens reads no more than `2·d` again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

Outlook = bytes
"""What an engine gave for the tokens that come next, to be recalled without reading any."""


class StreamState(Protocol):
    """What an engine keeps of a stream."""

    @property
    def position(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def is_broken_off(self) -> bool:
        """Whether a token was left half-way, so that nothing may go on from here."""
        ...

    def copy(self) -> Self: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KeptState:
    """A state that nobody writes any more, and its outlook if that was at hand."""

    state: StreamState
    outlook: Outlook | None
    is_mark: bool
    """Whether somebody asked for it: the last of those is never given up."""

    @property
    def position(self) -> int:
        return self.state.position


class KeptStates:
    """States by rising position, within so many bytes; one is kept whatever its size."""

    def __init__(self, *, budget_bytes: int, spacing: int) -> None:
        self.budget_bytes, self.spacing = budget_bytes, spacing
        self._kept: list[KeptState] = []

    def __iter__(self) -> Iterator[KeptState]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """Memory of all of them."""
        return sum(kept.state.num_bytes for kept in self._kept)

    @property
    def last_position(self) -> int:
        return self._kept[-1].position if self._kept else 0

    def wants(self, state: StreamState) -> bool:
        """Whether a state that nobody asked for is worth its copy."""
        room = self.budget_bytes // max(1, state.num_bytes)
        has_room = room > int(any(kept.is_mark for kept in self._kept))
        return has_room and state.position - self.last_position >= self.spacing

    def add(self, kept: KeptState) -> None:
        """Keep another, from a later position than all others."""
        assert not self._kept or kept.position > self.last_position, "positions rise"
        self._kept.append(kept)
        while len(self._kept) > 1 and self.num_bytes > self.budget_bytes:
            del self._kept[self._least_missed()]

    def marked(self) -> bool:
        """Make the last one a mark; False where there is none."""
        if not self._kept:
            return False
        last = self._kept[-1]
        self._kept[-1] = KeptState(state=last.state, outlook=last.outlook, is_mark=True)
        return True

    def nearest(self, position: int) -> KeptState | None:
        """The last one at a position or before it."""
        return next((kept for kept in reversed(self._kept) if kept.position <= position), None)

    def cut(self, position: int) -> None:
        """Forget those beyond a position."""
        while self._kept and self._kept[-1].position > position:
            self._kept.pop()

    def copy(self) -> "KeptStates":
        """The same states for another stream; they are shared, since nobody writes them."""
        other = KeptStates(budget_bytes=self.budget_bytes, spacing=self.spacing)
        other._kept = list(self._kept)
        return other

    def _least_missed(self) -> int:
        last_mark = max((place for place, kept in enumerate(self._kept) if kept.is_mark), default=-1)
        places = [kept.position for kept in self._kept]

        def loss(place: int) -> float:
            before = places[place - 1] if place else 0
            after = places[place + 1] if place + 1 < len(places) else places[place]
            return (after - before) / (places[-1] - after + self.spacing)

        # The last one is the nearest way back, but a mark is worth more where there is room for one alone.
        candidates = [place for place in range(len(places) - 1) if place != last_mark]
        return min(candidates, key=loss) if candidates else len(places) - 1
