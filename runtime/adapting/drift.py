"""Whole numbers that are learnt, one for each weight that moves: how far it has gone, in units of 2^-14.

A direction has −1 or 1 for every weight, by `quant.philox`. So a step adds or takes the same whole number
everywhere, the order of its pairs is all the same, and a replay ends with the same numbers on any machine.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.errors import AdapterError, UsageError
from quant.philox import signs_of_moves

UNIT_BITS = 14
UNIT = 2.0**-UNIT_BITS
LOWEST, HIGHEST = -(1 << UNIT_BITS), (1 << 15) - 1
"""From losing all to three times the weight; what would go beyond stays there."""
DECAY_SHARE = 1 / 16
"""What is given up is taken away once it comes to so much: less would be lost in rounding."""
DECAY_BITS = 16
LARGEST_LENGTH = 1 << 12
MOST_WAITING = 64
"""Moves that wait for each other: a replay makes many at once."""
MOST_AT_ONCE = 1 << 20
"""Numbers of all moves that are made at once."""


class _Move(NamedTuple):
    """A length along a direction."""

    step: int
    pair: int
    length: int


class Drift:
    """The numbers of some tensors, which are the streams of their directions."""

    def __init__(self, sizes: Sequence[int], *, seed: int) -> None:
        self.values: tuple[NDArray[np.int16], ...] = tuple(np.zeros(size, dtype=np.int16) for size in sizes)
        self._seed = seed
        self._owed = 0.0
        self._waiting = list[_Move]()

    @property
    def num_bytes(self) -> int:
        """Memory of the numbers."""
        return sum(values.nbytes for values in self.values)

    def at(self, stream: int, *, step: int, pair: int, by: int) -> NDArray[np.int32]:
        """A tensor's numbers, so far along a direction from where they are."""
        self._flush()
        found = self.values[stream].astype(np.int32)
        if by:
            found += self._moves(stream, [_Move(step, pair, by)])[0]
        return found

    def apply(self, step: int, lengths: Sequence[float], *, decay: float) -> None:
        """Give up a share of what was learnt, then go so many units along each direction of a step."""
        check_lengths(step, lengths, longest=LARGEST_LENGTH)
        self._owed += decay
        if self._owed >= DECAY_SHARE:
            self._flush()
            self._give_up(round(min(self._owed, 1.0) * (1 << DECAY_BITS)))
            self._owed = 0.0
        self._waiting += [_Move(step, pair, int(length)) for pair, length in enumerate(lengths) if length]
        if len(self._waiting) >= MOST_WAITING:
            self._flush()

    def _give_up(self, share: int) -> None:
        """Take a share of 2^16 from all numbers, rounded to the nearest."""
        for values in self.values:
            values -= (values.astype(np.int64) * share + (1 << DECAY_BITS - 1) >> DECAY_BITS).astype(np.int16)

    def _flush(self) -> None:
        """Make the moves that wait, each as if it were alone: a number stops at its borders."""
        for stream, values in enumerate(self.values if self._waiting else ()):
            at_once = max(1, MOST_AT_ONCE // max(1, values.size))
            for first in range(0, len(self._waiting), at_once):
                moves = self._moves(stream, self._waiting[first : first + at_once])
                places = np.cumsum(moves, axis=0, out=moves)
                places += values
                if places.min(initial=0) >= LOWEST and places.max(initial=0) <= HIGHEST:
                    values[...] = places[-1]
                else:
                    values[...] = _with_borders(values, places)
        self._waiting.clear()

    def _moves(self, stream: int, moves: "Sequence[_Move]") -> NDArray[np.int32]:
        """What some moves add to a tensor's numbers, [moves, numbers]."""
        signs = signs_of_moves(
            self.values[stream].size,
            seed=self._seed,
            stream=stream,
            steps=[move.step for move in moves],
            pairs=[move.pair for move in moves],
        )
        return signs * np.array([move.length for move in moves], dtype=np.int32)[:, None]


def _with_borders(values: NDArray[np.int16], places: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where numbers end that go from place to place and cannot pass their borders."""
    found, before = values.astype(np.int32), values.astype(np.int32)
    for place in places:
        found = np.clip(found + (place - before), LOWEST, HIGHEST)
        before = place
    return found


def check_lengths(step: int, lengths: Sequence[float], *, longest: float) -> None:
    """Refuse a step that goes further than any run lets it, so that its log was made by something else."""
    far = [length for length in lengths if not abs(length) <= longest]
    if far:
        raise AdapterError(
            f"step {step} of the log goes {far[0]:g} far; {longest} at most is what a run writes",
            hint="It is damaged or made by hand. Take another copy of it.",
        )


def whole_length(wanted: float) -> float:
    """The nearest length that numbers can go, in units; so far in one step only what has gone astray goes."""
    return float(max(-LARGEST_LENGTH, min(LARGEST_LENGTH, round(wanted / UNIT))))


def look_length(epsilon: float) -> int:
    """Units of a look."""
    if not UNIT <= epsilon <= 1:
        raise UsageError(f"epsilon {epsilon:g}; allowed are {UNIT:.6f} to 1, as shares of what moves")
    return round(epsilon / UNIT)
