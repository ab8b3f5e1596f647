"""What a saved state says of itself, beside its arrays: a page of JSON, read as strictly as a config."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from configs.codec import Problem, decode
from configs.errors import StateError, UsageError
from configs.schema.keys import Key
from configs.strict_json import parse_object
from runtime.sampling import FORBIDDEN, SamplingSettings, parsed_biases
from runtime.session import Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a state belongs to."""

    name: Annotated[str, Key("The model's name, for people", "works")]
    model: Annotated[str, Key("Digest of the weights' file", "works")]
    tokenizer: Annotated[str, Key("Digest of the tokenizer", "works")]
    template: Annotated[str, Key("Digest of the chat template; empty without one", "works")] = ""
    adapters: Annotated[tuple[str, ...], Key("Digests of adapters, in their order", "works")] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedSampling:
    """How tokens were drawn."""

    temperature: Annotated[float, Key("Temperature", "works")]
    top_k: Annotated[int, Key("Best tokens kept", "works")]
    top_p: Annotated[float, Key("Share kept", "works")]
    min_p: Annotated[float, Key("Least share of the best", "works")]
    repetition_penalty: Annotated[float, Key("Penalty", "works")]
    repetition_window: Annotated[int, Key("Recent tokens", "works")]
    logit_bias: Annotated[tuple[str, ...], Key("Biases as ID=NUMBER or ID=off", "works")]
    seed: Annotated[str, Key("The seed, in decimal digits", "works")]

    @classmethod
    def of(cls, settings: SamplingSettings) -> "SavedSampling":
        biases = (
            f"{token}={'off' if bias == FORBIDDEN else repr(bias)}"
            for token, bias in sorted(settings.logit_bias.items())
        )
        return cls(
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
            repetition_penalty=settings.repetition_penalty,
            repetition_window=settings.repetition_window,
            logit_bias=tuple(biases),
            seed=str(settings.seed),
        )

    def settings(self) -> SamplingSettings:
        """The same as the sampler takes it; what it does not allow is refused."""
        if not (self.seed.isascii() and self.seed.isdigit() and len(self.seed) <= 20):
            raise UsageError(f"seed {self.seed!r} is no number")
        return SamplingSettings(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            repetition_window=self.repetition_window,
            logit_bias=parsed_biases(self.logit_bias),
            seed=int(self.seed),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedTurn:
    """One exchange."""

    start: Annotated[int | None, Key("Where it begins in the stream", "works", low=0)]
    message: Annotated[str, Key("What was said", "works")]
    reply: Annotated[str, Key("What was answered", "works")]
    is_chat: Annotated[bool, Key("Whether in the form of a chat", "works")]
    branch: Annotated[int, Key("Which telling of the reply it is", "works", low=0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """All of it."""

    identity: Annotated[Identity, Key("What it belongs to", "works")]
    rounds: Annotated[int, Key("Rounds of the loop that the state has room for", "works", low=1)]
    exit_threshold: Annotated[float, Key("Change below which a token leaves the loop", "works", low=0.0)]
    position: Annotated[int, Key("Tokens of the stream", "works", low=0)]
    num_read: Annotated[int, Key("How many of them the state has read", "works", low=0)]
    sampling: Annotated[SavedSampling, Key("How tokens are drawn", "works")]
    system: Annotated[str, Key("The message before the talk", "works")] = ""
    is_stale: Annotated[bool, Key("Whether the stream is to be written anew", "works")] = False
    turns: Annotated[tuple[SavedTurn, ...], Key("The talk", "works")] = ()
    version: Annotated[str, Key("The version of Chimera that wrote it", "works")] = ""


def saved_turns(turns: tuple[Turn, ...]) -> tuple[SavedTurn, ...]:
    """Turns as they are written."""
    return tuple(
        SavedTurn(
            start=turn.start, message=turn.message, reply=turn.reply, is_chat=turn.is_chat, branch=turn.branch
        )
        for turn in turns
    )


def told_turns(turns: tuple[SavedTurn, ...]) -> tuple[Turn, ...]:
    """Turns as a session has them."""
    return tuple(
        Turn(
            start=turn.start, message=turn.message, reply=turn.reply, is_chat=turn.is_chat, branch=turn.branch
        )
        for turn in turns
    )


def written(about: About) -> bytes:
    """The page as it stands in a file."""
    return json.dumps(asdict(about), ensure_ascii=True, allow_nan=False).encode("ascii")


def understood(data: bytes, *, source: str) -> About:
    """The page of a file; every problem of it is named."""
    raw: Mapping[str, object] = parse_object(data.decode("utf-8", "replace"), source=source, error=StateError)
    problems: list[Problem] = []
    about = decode(About, raw, problems=problems)
    if about is None:
        raise StateError(f"{source} says what no state can say: {'; '.join(map(str, problems[:4]))}")
    if about.num_read > about.position:
        raise StateError(
            f"{source} has read {about.num_read} tokens of {about.position}", hint="It was not written by us."
        )
    return about
