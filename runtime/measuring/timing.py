"""Times of something that is done again and again, on a machine that others may use too."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_ENOUGH = 3


@dataclass(kw_only=True, slots=True)
class Times:
    """What was timed. A pool does with fewer threads while others take cores; such times are kept apart."""

    alone_s: list[float] = field(default_factory=list[float])
    shared_s: list[float] = field(default_factory=list[float])

    def take(
        self, action: Callable[[], object], *, has_all_threads: Callable[[], bool], parts: int = 1
    ) -> None:
        """Do it once more; its time is that of so many equal parts."""
        before = has_all_threads()
        begin = time.perf_counter()
        action()
        took = (time.perf_counter() - begin) / parts
        (self.alone_s if before and has_all_threads() else self.shared_s).append(took)

    def __len__(self) -> int:
        return len(self.alone_s) + len(self.shared_s)

    @property
    def were_shared(self) -> bool:
        """Whether the median is of a machine that others used: too few times were of all threads."""
        return len(self.alone_s) < min(_ENOUGH, len(self))

    @property
    def least_s(self) -> float:
        """What it takes when nothing comes between."""
        return min(self.alone_s + self.shared_s)

    @property
    def median_s(self) -> float:
        """Of the times with all threads, if they are enough: others' work says nothing of the machine."""
        return statistics.median(self.alone_s + self.shared_s if self.were_shared else self.alone_s)
