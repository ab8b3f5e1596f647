"""What reading experts cost and gave: counted as it happens, told as it was."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Span: TypeAlias = tuple[Literal["compute", "read", "stall"], float, float]
"""What went on, from when to when, in seconds of `time.perf_counter`."""


@dataclass(kw_only=True, slots=True)
class Foreseen:
    """How often wishes of one layer and horizon came true."""

    wished: int = 0
    visited: int = 0
    both: int = 0

    @property
    def recall(self) -> float:
        """Of what was visited, the share that was wished for."""
        return self.both / self.visited if self.visited else 0.0

    @property
    def precision(self) -> float:
        """Of what was wished for, the share that was visited."""
        return self.both / self.wished if self.wished else 0.0


@dataclass(kw_only=True, slots=True)
class Meter:
    """Counts since the engine was opened. A visit is one of a pass: tokens of a slice count together."""

    visits: int = 0
    late_hits: int = 0
    """Visits that waited for a read which had begun before."""
    misses: int = 0
    """Visits that waited for a read which they began, or went without."""
    stand_ins: int = 0
    """Visits for which the shared expert stood in."""
    reads: int = 0
    """Experts read."""
    read_bytes: int = 0
    busy_s: float = 0.0
    """How long at least one read was on its way."""
    wasted_reads: int = 0
    """Experts that left memory, or stay in it, without a visit since they were read."""
    failed_reads: int = 0
    """Reads that were tried again, or given up."""
    dropped_wishes: int = 0
    """Wishes for which there was no room."""
    stalls: int = 0
    """Passes that had to wait."""
    stall_s: float = 0.0
    tokens: int = 0
    foreseen: dict[tuple[int, int], Foreseen] = field(default_factory=dict[tuple[int, int], Foreseen])
    """By the layer's row and the horizon in tokens."""
    decided: dict[int, Foreseen] = field(default_factory=dict[int, Foreseen])
    """The same of what was decided ahead, by the layer's row."""
    spans: list[Span] | None = None
    """What went on, where somebody asked for it."""

    @property
    def hits(self) -> int:
        """Visits that found their expert in memory."""
        return self.visits - self.late_hits - self.misses

    @property
    def hit_rate(self) -> float:
        """The share of visits that did not wait."""
        return self.hits / self.visits if self.visits else 0.0

    @property
    def read_bytes_s(self) -> float:
        """What the disk gave while it was asked."""
        return self.read_bytes / self.busy_s if self.busy_s else 0.0

    @property
    def stall_ms_a_token(self) -> float:
        """How long compute waited, for each token."""
        return self.stall_s * 1e3 / self.tokens if self.tokens else 0.0

    @property
    def wasted_a_useful(self) -> float:
        """Wasted reads for each useful one."""
        useful = self.reads - self.wasted_reads
        return self.wasted_reads / useful if useful else 0.0

    def all_foreseen(self) -> dict[tuple[int, int], Foreseen]:
        """What was wished for and what was decided, together."""
        found = dict(self.foreseen)
        for row, one in self.decided.items():
            other = found.get((row, 0), Foreseen())
            found[row, 0] = Foreseen(
                wished=one.wished + other.wished,
                visited=one.visited + other.visited,
                both=one.both + other.both,
            )
        return found

    def span(self, kind: Literal["compute", "read", "stall"], begin: float, end: float) -> None:
        """Remember what went on."""
        if self.spans is not None:
            self.spans.append((kind, begin, end))
