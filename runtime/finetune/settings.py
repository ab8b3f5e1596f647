"""What a run is told, and the plan that follows from it: batches, rates, and when to stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, get_args

from configs.errors import UsageError
from quant.adapter import MOST_NUMBERS
from runtime.adapting.learnt import MOST_WHOLE
from runtime.finetune.method import Item
from runtime.randomness import random_bits

Schedule = Literal["linear", "constant"]
Objective = Literal["loss", "score"]
LEAST: Mapping[str, int] = {
    "steps": 1,
    "batch": 1,
    "pairs": 1,
    "look_every": 1,
    "patience": 0,
    "max_tokens": 1,
    "unit": 1,
}
"""The least of each whole number."""
FARTHEST = 1e30
"""Of rates and moves: what a log holds of them is float32, and products of two have to be numbers."""
_SHUFFLE = 0x534846
"""The draws that order an epoch, among those of a seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How long, how fast, on how much at a time."""

    steps: int = 1000
    batch: int = 16
    """Sequences of a step."""
    pairs: int = 1
    """Directions of a step, each with a look to both sides."""
    move: float | None = None
    """How far a step of usual slope goes, as a share of what moves, where no rate is given."""
    rate: float | None = None
    """How far a step goes for a slope of 1."""
    schedule: Schedule = "linear"
    decay: float = 0.0
    """The share of what was learnt that a step gives up, at the first rate."""
    clip: float = 3.0
    """A slope counts as so many usual ones at most; 0 is no limit."""
    look_every: int = 50
    """Steps between two looks at the validation data."""
    patience: int = 0
    """A run ends after so many looks that found nothing better; 0 is never."""
    objective: Objective = "loss"
    max_tokens: int = 32
    """Of an answer that is scored."""
    unit: int = 8
    """Sequences that one of several workers takes at a time."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            most = MOST_NUMBERS if name == "pairs" else MOST_WHOLE
            if not least <= getattr(self, name) <= most:
                raise UsageError(
                    f"{name} {getattr(self, name)}; allowed are whole numbers from {least} to {most}"
                )
        for name in ("move", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= FARTHEST:
                raise UsageError(f"{name} {value}; allowed are numbers above 0, up to {FARTHEST:g}")
        for name, value, most in (("decay", self.decay, 1.0), ("clip", self.clip, FARTHEST)):
            if not 0 <= value < most:
                raise UsageError(f"{name} {value}; allowed are 0 to less than {most:g}")
        if self.schedule not in get_args(Schedule) or self.objective not in get_args(Objective):
            raise UsageError(
                f"schedule {self.schedule!r}, objective {self.objective!r}; allowed are "
                f"{', '.join(get_args(Schedule))}, and {', '.join(get_args(Objective))}"
            )

    def move_within(self, reach: float) -> float:
        """The first of as many moves in random directions as a run has that carry so far together."""
        return reach * sqrt((3.0 if self.schedule == "linear" else 1.0) / self.steps)

    def rate_at(self, step: int, *, first: float) -> float:
        """The rate of a step. Sums and quotients alone, which all machines compute alike."""
        return first if self.schedule == "constant" else first * (self.steps - step) / self.steps


class Batches:
    """Which sequences a step has: epochs in orders that a seed gives, one behind another."""

    def __init__(self, items: Sequence[Item], *, size: int, seed: int) -> None:
        self._items, self._size, self._seed = items, min(size, len(items)), seed
        self._epoch, self._order = -1, list[int]()

    def of(self, step: int) -> list[Item]:
        """The sequences of a step, by its number alone."""
        first = step * self._size
        return [self._item(number) for number in range(first, first + self._size)]

    def _item(self, number: int) -> Item:
        epoch, place = divmod(number, len(self._items))
        if epoch != self._epoch:
            self._order = sorted(
                range(len(self._items)),
                key=lambda at: random_bits(seed=self._seed, position=at, draw=_SHUFFLE, branch=epoch),
            )
            self._epoch = epoch
        return self._items[self._order[place]]
