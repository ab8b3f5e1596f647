"""How the next token is chosen: what a caller may ask for. `runtime.sampler` does it.

The order is: logit bias, repetition penalty, temperature, top-k, top-p, min-p, draw. It is the order of
Hugging Face transformers. llama.cpp applies the temperature last, so its top-p and min-p cut the distribution
of temperature 1: at a temperature above 1 it keeps fewer tokens than the same numbers keep here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from configs.errors import UsageError
from configs.schema.serving import Generation
from runtime.randomness import SEED_LIMIT

FORBIDDEN = float("-inf")
"""The bias of a token that is never given."""
LOWEST_TEMPERATURE = 1e-6
HIGHEST_TEMPERATURE = 100.0
HIGHEST_PENALTY = 100.0
LARGEST_BIAS = 1e9
MOST_LOG_PROBS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """What a draw is made by. The defaults draw from the model's own distribution."""

    temperature: float = 1.0
    """Flattens the choice; 0 takes the best, and the lowest id among equals."""
    top_k: int = 0
    """Keeps this many of the best; 0 keeps all."""
    top_p: float = 1.0
    """Keeps the best up to this share of what top-k left, one at least; 1 keeps all."""
    min_p: float = 0.0
    """Keeps what is at least this share as likely as the best; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of recent tokens, and multiplies the negative ones (CTRL); 1 is none."""
    repetition_window: int = 256
    """How many tokens back count as recent."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType(dict[int, float]()))
    """Added to the logits of some ids; −inf forbids one."""
    seed: int = 0
    """The same seed gives the same text."""

    def __post_init__(self) -> None:
        is_usable = LOWEST_TEMPERATURE <= self.temperature <= HIGHEST_TEMPERATURE
        if not (self.temperature == 0 or is_usable):
            raise UsageError(
                f"temperature {self.temperature}; allowed: 0, which takes the best token, and "
                f"{LOWEST_TEMPERATURE} … {HIGHEST_TEMPERATURE}"
            )
        if self.top_k < 0:
            raise UsageError(f"top-k {self.top_k}; at least 1 is allowed, and 0 keeps every token")
        if not 0 <= self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p}; 0 … 1 is allowed, and 1 keeps every token")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min-p {self.min_p}; 0 … 1 is allowed, and 0 keeps every token")
        if not 1 / HIGHEST_PENALTY <= self.repetition_penalty <= HIGHEST_PENALTY:
            raise UsageError(
                f"repetition penalty {self.repetition_penalty}; {1 / HIGHEST_PENALTY} … {HIGHEST_PENALTY} is "
                "allowed, and 1 is none"
            )
        if self.repetition_window < 0:
            raise UsageError(f"repetition window {self.repetition_window}; at least 0 tokens are allowed")
        if not 0 <= self.seed < SEED_LIMIT:
            raise UsageError(f"seed {self.seed}; 0 … {SEED_LIMIT - 1} is allowed")
        for token, bias in self.logit_bias.items():
            _check_bias(token, bias)

    @property
    def is_greedy(self) -> bool:
        """Whether the best token is taken, and nothing drawn."""
        return self.temperature == 0

    @property
    def needs_all(self) -> bool:
        """Whether the choice depends on every logit, and not on the best alone: where all share the draw."""
        return not self.is_greedy and not self.top_k and (self.top_p < 1 or not self.min_p)

    def check_ids(self, num_ids: int) -> None:
        """Refuse a bias on an id that a vocabulary lacks."""
        strange = [token for token in self.logit_bias if not 0 <= token < num_ids]
        if strange:
            raise UsageError(f"logit bias on token {strange[0]}; the vocabulary has 0 … {num_ids - 1}")


def settings_of(generation: Generation) -> SamplingSettings:
    """What a model's config asks for unless told otherwise."""
    draws = generation.do_sample and generation.temperature >= LOWEST_TEMPERATURE
    return SamplingSettings(
        temperature=generation.temperature if draws else 0.0,
        top_p=generation.top_p,
        repetition_penalty=generation.repetition_penalty,
    )


def parsed_biases(words: Iterable[str]) -> Mapping[int, float]:
    """Biases written ID=VALUE or ID=off."""
    found: dict[int, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[int(name)] = FORBIDDEN if value == "off" else float(value)
        except ValueError:
            raise UsageError(
                f"logit bias {word!r}; expected ID=NUMBER, or ID=off to forbid a token", hint="As in: 42=-2.5"
            ) from None
    return MappingProxyType(found)


def check_log_probs(count: int) -> None:
    """Refuse a number of log-probabilities that is not told."""
    if not 0 <= count <= MOST_LOG_PROBS:
        raise UsageError(f"{count} log-probabilities; 0 … {MOST_LOG_PROBS} is allowed")


def _check_bias(token: int, bias: float) -> None:
    if bias != FORBIDDEN and not abs(bias) <= LARGEST_BIAS:
        raise UsageError(
            f"logit bias {bias} on token {token}; {-LARGEST_BIAS:g} … {LARGEST_BIAS:g} is allowed, and "
            "minus infinity forbids the token"
        )
