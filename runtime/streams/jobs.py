"""Lines of a file of prompts, and the lines that answer them.

    {"prompt": "…"}                           a message; a text to go on with, where there is no chat
    {"text": "…"}                             a text to go on with
    {"messages": [{"role": …, "content": …}]} a conversation up to a user's message

Beside it may stand `id`, which comes back, and what the line has of its own: `system`, `seed`, `max_tokens`,
`max_seconds`, `temperature`, `top_k`, `top_p`, `min_p`, `repeat_penalty`, `stop`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from configs.codec import Problem, decode
from configs.errors import DataError, UsageError
from configs.schema.keys import Key
from configs.strict_json import JsonValue, parse_object
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from runtime.sampling import SamplingSettings
from runtime.streams.request import Request
from runtime.telling import Limits
from runtime.turns import Message, begun, opening

LONGEST_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class SaidMessage:
    """One message of a conversation."""

    role: Annotated[str, Key("Who speaks", "works")]
    content: Annotated[str, Key("What is said", "works")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A line of the file."""

    prompt: Annotated[str | None, Key("A message", "works")] = None
    text: Annotated[str | None, Key("A text to go on with", "works")] = None
    messages: Annotated[tuple[SaidMessage, ...] | None, Key("A conversation", "works")] = None
    system: Annotated[str | None, Key("The message before a chat", "works")] = None
    seed: Annotated[int | None, Key("The seed", "works")] = None
    max_tokens: Annotated[int | None, Key("Longest answer", "works")] = None
    max_seconds: Annotated[float | None, Key("Longest time", "works")] = None
    temperature: Annotated[float | None, Key("Temperature", "works")] = None
    top_k: Annotated[int | None, Key("Best tokens kept", "works")] = None
    top_p: Annotated[float | None, Key("Share kept", "works")] = None
    min_p: Annotated[float | None, Key("Least share of the best", "works")] = None
    repeat_penalty: Annotated[float | None, Key("Penalty", "works")] = None
    stop: Annotated[tuple[str, ...] | None, Key("Stop strings", "works")] = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Defaults:
    """What holds for every line that says nothing else."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    settings: SamplingSettings
    limits: Limits
    rounds: int
    exit_threshold: float
    system: str = ""


def parsed_job(line: bytes, *, source: str) -> tuple[Job, JsonValue]:
    """A line, and its `id`, which may be anything."""
    raw = parse_object(line, source=source, error=DataError)
    name = raw.pop("id", None)
    problems: list[Problem] = []
    job = decode(Job, raw, problems=problems, also=("id",))
    if job is None:
        raise DataError(f"{source}: {'; '.join(map(str, problems[:4]))}")
    if sum(given is not None for given in (job.prompt, job.text, job.messages)) != 1:
        raise DataError(f"{source}: expected one of prompt, text and messages")
    return job, name


def request_of(job: Job, defaults: Defaults) -> Request:
    """What a line asks of a scheduler."""
    is_chat = job.text is None and defaults.template is not None
    ids = _chat_ids(job, defaults) if is_chat else defaults.tokenizer.encode(_only_text(job))
    return Request(
        ids=begun(defaults.tokenizer, ids),
        settings=replace(defaults.settings, **_own_settings(job)),
        limits=_own_limits(job, defaults.limits),
        rounds=defaults.rounds,
        exit_threshold=defaults.exit_threshold,
        is_continued=not is_chat,
    )


def _chat_ids(job: Job, defaults: Defaults) -> list[int]:
    assert defaults.template is not None, "only a model with a chat is asked"
    system = defaults.system if job.system is None else job.system
    said: list[Message] = [{"role": "system", "content": system}] if system else []
    if job.prompt is not None:
        said.append({"role": "user", "content": job.prompt})
    for message in job.messages or ():
        said.append({"role": message.role, "content": message.content})
    if said[-1]["role"] != "user":
        raise DataError("a conversation has to end with a user's message")
    return defaults.tokenizer.encode_pieces(opening(defaults.template, said))


def _only_text(job: Job) -> str:
    if job.messages is not None:
        raise UsageError("this model's tokenizer has no words for a chat", hint="Give it texts.")
    if job.system is not None:
        raise DataError("a text has no system message")
    return job.prompt or job.text or ""


def _own_settings(job: Job) -> dict[str, Any]:
    own = {
        "seed": job.seed,
        "temperature": job.temperature,
        "top_k": job.top_k,
        "top_p": job.top_p,
        "min_p": job.min_p,
        "repetition_penalty": job.repeat_penalty,
    }
    return {name: value for name, value in own.items() if value is not None}


def _own_limits(job: Job, limits: Limits) -> Limits:
    stops: Sequence[str] = limits.stops if job.stop is None else job.stop
    longest = limits.max_tokens if job.max_tokens is None else job.max_tokens
    seconds = limits.max_seconds if job.max_seconds is None else job.max_seconds
    return replace(limits, max_tokens=longest, stops=tuple(stops), max_seconds=seconds)
