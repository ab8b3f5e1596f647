"""The course of the learning rate and of the weight decay: pure functions of the step.

A step is counted by the updates made before it: `rate(0)` is for the first one, and the end is `num_steps`.

    warm-up        peak · t/w                                 t < w
    cosine_warmup  peak · (0.1 + 0.9 · ½(1 + cos πp))         p = (t − w)/(n − w)
    two_stage      peak · (1 − p), then ⅔ peak · (1 − p)      the second from the middle on, without decay
    constant       peak

Two stages are BitNet b1.58's recipe: ternary weights bear a high rate at first, and decay pulls latent
weights to zero, where they stay, so the second half is without it. In the middle the rate falls from ½ to ⅓
of the peak, and it reaches 0 at the end. Papers: The Era of 1-bit LLMs, training tips; BitNet b1.58 2B4T.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from configs.errors import UsageError

ScheduleKind = Literal["cosine_warmup", "two_stage", "constant"]

FLOOR = 0.1
"""What the cosine ends at, as a share of the peak."""
SECOND_STAGE = 0.5
"""Where the second stage begins, as a share of the steps after warm-up."""
SECOND_PEAK = 2 / 3
"""The second stage's own peak, as a share of the first's."""


class Course(Protocol):
    """What a training step asks of a schedule."""

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        ...

    def decay(self, step: int) -> float:
        """The weight decay of a step."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Warm-up and course of one run of steps."""

    kind: ScheduleKind
    peak: float
    """The highest learning rate."""
    num_steps: int
    warmup_steps: int = 0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise UsageError(f"a schedule of {self.num_steps} steps; at least 1 is needed")
        if not 0 <= self.warmup_steps <= self.num_steps:
            raise UsageError(
                f"{self.warmup_steps} steps of warm-up in a run of {self.num_steps}",
                hint="Give fewer with --warmup, or train for longer.",
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = self._done(step)
        if self.kind == "cosine_warmup":
            return self.peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
        return self.peak * (SECOND_PEAK if done >= SECOND_STAGE else 1.0) * (1 - done)

    def decay(self, step: int) -> float:
        """The weight decay of a step."""
        second = self.kind == "two_stage" and step >= self.warmup_steps and self._done(step) >= SECOND_STAGE
        return 0.0 if second else self.weight_decay

    def _done(self, step: int) -> float:
        """The share of the steps after warm-up that lies behind."""
        left = self.num_steps - self.warmup_steps
        return min(1.0, (step - self.warmup_steps) / left) if left else 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Schedules one after another, each counting its steps from its own beginning."""

    links: tuple[Schedule, ...]

    @property
    def num_steps(self) -> int:
        """The steps of all links."""
        return sum(link.num_steps for link in self.links)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        link, own_step = self._link(step)
        return link.rate(own_step)

    def decay(self, step: int) -> float:
        """The weight decay of a step."""
        link, own_step = self._link(step)
        return link.decay(own_step)

    def _link(self, step: int) -> tuple[Schedule, int]:
        """The link that a step lies in, the last one beyond the end, and the step's number inside it."""
        return link_of_step(self.links, step)


def link_of_step(links: Sequence[Schedule], step: int) -> tuple[Schedule, int]:
    """Which of several schedules in a row a step lies in, and its number there."""
    assert links, "a chain without links"
    for link in links[:-1]:
        if step < link.num_steps:
            return link, step
        step -= link.num_steps
    return links[-1], step


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarmed:
    """A course whose rate rises anew from a step at which the optimiser's moments began again.

    A first step with empty moments is a step by sign alone. At rate 0 it only fills them.
    """

    course: Course
    at_step: int
    num_steps: int

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        since = step - self.at_step
        share = since / self.num_steps if 0 <= since < self.num_steps else 1.0
        return self.course.rate(step) * share

    def decay(self, step: int) -> float:
        """The weight decay of a step."""
        return self.course.decay(step)
