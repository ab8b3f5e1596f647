"""Alarms of `--stats`: values that lie beyond what the config's `diagnostics.thresholds` allow."""

from collections.abc import Iterable
from dataclasses import dataclass

from configs.schema.serving import Thresholds
from runtime.binding import Integers

CHANCE_DEVIATIONS = 3
"""So many deviations of a count above its mean say nothing of a router."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """A value and its bound."""

    value_name: str
    value: float
    bound_name: str
    highest: float

    def __str__(self) -> str:
        allowed = f"at most {self.highest:g} is allowed"
        return f"alarm: {self.value_name} is {self.value:g}; {allowed} ({self.bound_name})"


def alarms(thresholds: Thresholds, *, expert_visits: Iterable[Integers]) -> list[Alarm]:
    """Those that are raised now. Bounds of parts that no engine has yet raise none."""
    highest = 1 + thresholds.max_moe_imbalance
    loads = [busiest_over_mean(visits) for visits in expert_visits if is_uneven(visits, highest=highest)]
    if not loads:
        return []
    return [
        Alarm(
            value_name="moe_expert_load_balance",
            value=round(max(loads), 3),
            bound_name="max_moe_imbalance",
            highest=highest,
        )
    ]


def busiest_over_mean(visits: Integers) -> float:
    """Tokens of the busiest expert over those of the mean one; 1 is even."""
    return float(visits.max()) * visits.size / float(visits.sum())


def is_uneven(visits: Integers, *, highest: float) -> bool:
    """Whether the busiest expert has more than is allowed, and than chance would give so few tokens."""
    total = int(visits.sum())
    if not total:
        return False
    mean = total / visits.size
    return busiest_over_mean(visits) > highest + CHANCE_DEVIATIONS / mean**0.5
