"""What one answer was, and how long it took."""

from dataclasses import dataclass
from typing import Literal

from runtime.sampler import Choice

Finish = Literal["end", "stop", "length", "cancelled", "time", "memory", "watchdog"]
"""The model ended it; a stop string was met; it is as long as allowed; the caller had enough; it took as long
as allowed; its stream takes more memory than allowed; steps kept taking longer than they may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Tokens and seconds of one answer."""

    prompt_tokens: int
    prompt_s: float
    answer_tokens: int
    first_token_s: float
    """From the call to the first token, with the reading of the prompt."""
    answer_s: float
    """From the first token to the last, or to the one that ended the answer."""

    @property
    def prompt_rate(self) -> float:
        """Tokens of the prompt a second."""
        return self.prompt_tokens / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def answer_rate(self) -> float:
        """Tokens of the answer a second, from the second token on."""
        later = max(0, self.answer_tokens - 1)
        return later / self.answer_s if self.answer_s > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer that is over."""

    text: str
    ids: tuple[int, ...]
    """Every token that was chosen for it, those of a stop string too; without the one that ended it."""
    finish: Finish
    stop: str | None
    """The stop string that was met."""
    position: int
    """Tokens of the stream after it."""
    timings: Timings
    choices: tuple[Choice, ...] = ()
    """The log-probabilities of each token, where they were asked for."""
