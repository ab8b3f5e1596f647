"""Which expert leaves memory when another needs its place: the one that is worth least.

    lru          the one that was visited longest ago
    lfu          the one that was visited least often, where a visit counts half after so many passes
    least-stale  layers take turns, so what was visited just now is needed latest: of those that the last
                 token did not visit, and then of the others, the one whose layer comes again latest

A policy gives a worth to each expert that is in memory; what has no place in an order of worth, such as
what is in use, is kept by whoever looks for a slot. This is the plain form; compiled code goes by
`quant.kernels.experts.worth`, and a test holds one against the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quant.kernels.experts.reading_places import HALF_LIFE_TOKENS, LEAST_STALE, LFU, LRU

Integers = NDArray[np.int64]
Worth = NDArray[np.float64]


@dataclass(kw_only=True, slots=True, eq=False)
class Residents:
    """What policies look at. Experts are numbered through all layers: row · E + expert."""

    order: tuple[int, ...]
    """The passes that calls take now: the row of each one's layer."""
    num_experts: int
    last_visits: Integers
    """The clock of each expert's last visit [L · E]."""
    visits: Integers
    """How many passes have visited each [L · E]."""
    loaded: Integers
    """The clock at which each came into memory [L · E]."""
    clock: int = 0
    place: int = 0
    _heat: Worth | None = None
    _seen: Integers | None = None
    _cooled_at: int = 0
    _distances: dict[tuple[tuple[int, ...], int], Integers] = field(
        default_factory=dict[tuple[tuple[int, ...], int], Integers]
    )

    def heat(self) -> Worth:
        """Visits of each expert, older ones counting less."""
        before = np.zeros(self.visits.size) if self._heat is None else self._heat
        now = self.visits.copy()
        age = (self.clock - self._cooled_at) / (HALF_LIFE_TOKENS * len(self.order))
        found: Worth = before * 0.5**age + (now if self._seen is None else now - self._seen)
        self._heat, self._seen, self._cooled_at = found, now, self.clock
        return found

    def distance(self) -> Integers:
        """How many passes on each expert's layer comes next [L · E]."""
        found = self._distances.get((self.order, self.place))
        if found is None:
            later = (*self.order[self.place + 1 :], *self.order, *range(self.last_visits.size))
            rows = [later.index(row) + 1 for row in range(self.last_visits.size // self.num_experts)]
            found = np.repeat(np.array(rows, dtype=np.int64), self.num_experts)
            self._distances[self.order, self.place] = found
        return found


def _least_recently(found: Residents) -> Worth:
    return np.maximum(found.last_visits, found.loaded).astype(np.float64)


def _least_frequently(found: Residents) -> Worth:
    # What has just come has no visits yet; it is not to leave before its turn.
    return found.heat() + (found.loaded >= found.clock)


def _least_stale(found: Residents) -> Worth:
    is_fresh = np.maximum(found.last_visits, found.loaded) > found.clock - len(found.order)
    return is_fresh * np.float64(len(found.order) + 1) - found.distance()


PolicyName = Literal["lru", "lfu", "least-stale"]
POLICIES: dict[PolicyName, Callable[[Residents], Worth]] = {
    "lru": _least_recently,
    "lfu": _least_frequently,
    "least-stale": _least_stale,
}
POLICY_CODES: dict[PolicyName, int] = {"lru": LRU, "lfu": LFU, "least-stale": LEAST_STALE}
"""What compiled code calls them."""
