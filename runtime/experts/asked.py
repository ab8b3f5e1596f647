"""What a caller asks of experts that lie on disk."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from chronos_moe.store.pages import ADVICE, Advice
from chronos_moe.store.policy import POLICIES, PolicyName
from chronos_moe.store.predictors import PREDICTORS, Predictor, PredictorName
from chronos_moe.store.reading import READERS, ReaderName
from configs.errors import UsageError

Miss = Literal["strict", "soft", "deadline"]
"""Wait for the expert; let the shared one stand in and read on; wait until a time is over, then that."""

MOST_READERS = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpertsAsked:
    """How experts on disk are kept and read. It does nothing for a model that has none there."""

    memory_bytes: int | None = None
    """For experts; None is what the engine's limit and the machine's free memory leave, but for a share."""
    on_miss: Miss = "strict"
    deadline_ms: float | None = None
    """With `deadline`: how long a token may wait in all."""
    policy: PolicyName = "lru"
    predictor: PredictorName | Predictor | None = None
    """None is what the model decides ahead, and nothing else: a guess drives out what was just visited."""
    reader: ReaderName | None = None
    """None is what was measured to be best on this disk."""
    num_readers: int | None = None
    pages: Advice | None = None
    """Leave experts to the pages of mapped files; what is asked beside has no use then."""
    is_checked: bool = False
    """Whether the bytes of each read are compared with their digest."""
    keeps_spans: bool = False
    """Whether the meter remembers what went on when."""

    def __post_init__(self) -> None:
        _check_word(self.on_miss, get_args(Miss), what="on a miss")
        _check_word(self.policy, tuple(POLICIES), what="policy")
        if isinstance(self.predictor, str):
            _check_word(self.predictor, tuple(PREDICTORS), what="predictor")
        if self.pages is not None:
            _check_word(self.pages, tuple(ADVICE), what="pages")
        if self.reader is not None:
            _check_word(self.reader, tuple(READERS), what="reader")
        if (self.deadline_ms is not None) != (self.on_miss == "deadline"):
            raise UsageError(
                "a deadline on a miss and its milliseconds go together, and one of them is missing",
                hint="As in: --on-miss deadline --deadline-ms 20",
            )
        if self.deadline_ms is not None and not (isfinite(self.deadline_ms) and self.deadline_ms >= 0):
            raise UsageError(f"a deadline of {self.deadline_ms} ms; a number from 0 is needed")
        if self.num_readers is not None and not 1 <= self.num_readers <= MOST_READERS:
            raise UsageError(f"{self.num_readers} readers; 1 to {MOST_READERS} are allowed")
        if self.memory_bytes is not None and self.memory_bytes < 0:
            raise UsageError(f"{self.memory_bytes} bytes for experts; a number from 0 is needed")


def _check_word(word: str, allowed: tuple[str, ...], *, what: str) -> None:
    if word not in allowed:
        raise UsageError(f"{what}: {word!r}; allowed are {', '.join(allowed)}")
