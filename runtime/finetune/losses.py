"""Losses of several sequences, side by side in few streams: no sequence's bits depend on who is beside it.

A slice of tokens is filled with the next ones of each stream, and the head is computed for those alone whose
next word is counted. A sequence that ends leaves its place to the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.binding import Part
from runtime.engine import Engine
from runtime.finetune.method import Item
from runtime.state import State

NUM_STREAMS = 4
"""Sequences at a time: with short ones that fills a slice, and each costs a state."""

Integers = NDArray[np.int64]


@dataclass(kw_only=True, slots=True, eq=False)
class _Place:
    """A sequence that is being read."""

    number: int
    item: Item
    state: State
    read: int = 0

    @property
    def num_left(self) -> int:
        """Ids that are still to be read; the last one is only foreseen."""
        return len(self.item.ids_T) - 1 - self.read


class Losses:
    """Sequences through an engine."""

    def __init__(self, engine: Engine, *, rounds: int | None = None, exit_threshold: float = 0.0) -> None:
        self._engine, self._rounds, self._exit_threshold = engine, rounds, exit_threshold

    def of(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """Each sequence's mean loss over its counted ids, in nats."""
        sums = np.zeros(len(items))
        waiting = iter(enumerate(items))
        places: list[_Place | None] = [None] * self._engine.num_streams
        while True:
            for number, place in enumerate(places):
                if place is None and (found := next(waiting, None)) is not None:
                    state = self._engine.new_state(self._rounds)
                    places[number] = _Place(number=found[0], item=found[1], state=state)
            if not any(places):
                break
            self._step(places, sums)
        return sums / np.array([item.counted_T.sum() for item in items])

    def _step(self, places: list[_Place | None], sums: NDArray[np.float64]) -> None:
        """One slice of tokens of the streams that there are."""
        left, row = self._engine.slice_tokens, 0
        parts: list[Part | None] = []
        rows: list[Integers] = []
        nexts: list[Integers] = []
        owners: list[int] = []
        for number, place in enumerate(places):
            if place is None or not left:
                parts.append(None)
                continue
            count = min(left, place.num_left)
            first, after = place.read, place.read + count
            parts.append(
                Part(
                    state=place.state,
                    ids=place.item.ids_T[first:after],
                    exit_threshold=self._exit_threshold,
                    is_heard=False,
                )
            )
            counted = np.flatnonzero(place.item.counted_T[first + 1 : after + 1])
            rows.append(counted + row)
            nexts.append(place.item.ids_T[counted + first + 1])
            owners += [place.number] * len(counted)
            left, row, place.read = left - count, row + count, after
            if not place.num_left:
                places[number] = None
        self._engine.step_together(parts)
        if owners:
            found = self._engine.log_probs(np.concatenate(rows), np.concatenate(nexts))
            for owner, log_prob in zip(owners, found.tolist(), strict=True):
                sums[owner] -= log_prob
