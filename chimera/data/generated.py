"""Tasks with checkable answers, made from a seed: prompts, answers and answers that are wrong.

    python -m chimera.data.generated tasks.jsonl --count 100000 --seed 0

One record serves answer-only training (prompt, completion), preferences (`rejected`) and rewards (`check`).
Each task is drawn from its own seed and number, so any part of an endless row of them can be made alone.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chimera.data import task_makers
from chimera.data.task_makers import KINDS, Made
from configs.errors import UsageError
from quant.atomic import atomic_file

Check = Literal["text", "list", "number", "json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A question with one right answer."""

    kind: str
    prompt: str
    answer: str
    rejected: str

    def check(self, reply: str) -> bool:
        """Whether a reply is right: as a text, a list, a number or a JSON value, as the kind has it."""
        return CHECKS[CHECK_OF.get(self.kind, "text")](reply, self.answer)


def tasks(count: int, *, seed: int, kinds: Sequence[str] | None = None) -> Iterator[Task]:
    """The first tasks of a seed, all kinds in turn or those named; the same seed gives the same ones."""
    names = list(KINDS) if kinds is None else list(kinds)
    for name in names:
        if name not in KINDS:
            raise UsageError(f"no kind of task {name!r}; allowed: {', '.join(KINDS)}")
    if not names or count < 0:
        raise UsageError(f"{count} tasks of {len(names)} kinds; at least 0 of at least 1 kind are needed")
    for number in range(count):
        yield task(number, seed=seed, kind=names[number % len(names)])


def task(number: int, *, seed: int, kind: str) -> Task:
    """One task of a kind."""
    draw = random.Random(f"{seed}/{number}/{kind}")
    while True:
        made = _task(kind, KINDS[kind](draw))
        # What is drawn as wrong may be right by chance: the last letter of a word that is its first as well.
        if not made.check(made.rejected):
            return made


def needle(draw: random.Random, *, haystack: Sequence[str], depth: float) -> Task:
    """A fact put among the sentences of a text at a depth of 0 … 1, and asked for after it."""
    if not 0 <= depth <= 1:
        raise UsageError(f"a depth of {depth:g}; allowed: 0 (before the text) to 1 (after it)")
    return _task("needle", task_makers.needle(draw, haystack=haystack, depth=depth))


def _task(kind: str, made: Made) -> Task:
    prompt, answer, rejected = made
    return Task(kind=kind, prompt=prompt, answer=answer, rejected=rejected)


def _same_text(reply: str, answer: str) -> bool:
    """Whatever space, quotes or full stop surround it."""
    return _bare(reply) == _bare(answer)


def _same_list(reply: str, answer: str) -> bool:
    """Item by item; commas, spaces and lines divide alike."""
    return _items(reply) == _items(answer)


def _same_number(reply: str, answer: str) -> bool:
    """The one number that is said, with words around it or without; two different numbers are no answer."""
    said = {word for word in _items(reply) if word.removeprefix("-").isdecimal()}
    return said == {answer}


def _same_json(reply: str, answer: str) -> bool:
    """The same value, however it is spaced and its keys are ordered; a fence of code around it is fine."""
    text = reply.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.removeprefix("```").removeprefix("json").removesuffix("```")
    try:
        return bool(json.loads(text) == json.loads(answer))
    except (ValueError, RecursionError):
        return False


CHECKS: Mapping[Check, Callable[[str, str], bool]] = {
    "text": _same_text,
    "list": _same_list,
    "number": _same_number,
    "json": _same_json,
}
CHECK_OF: Mapping[str, Check] = {
    "sum": "number",
    "product": "number",
    "problem": "number",
    "reverse": "list",
    "sort": "list",
    "count": "number",
    "json": "json",
    "field": "number",
    "python": "number",
    "larger": "number",
    "next": "number",
}
"""Kinds whose answers are compared otherwise than as texts."""


def _bare(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").strip(" \"'`")


def _items(text: str) -> list[str]:
    return [item for item in (part.strip(".:;!?\"'`()") for part in text.replace(",", " ").split()) if item]


def main() -> None:
    """Write tasks as records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with atomic_file(args.out) as file:
        for made in tasks(args.count, seed=args.seed):
            record = {
                "kind": made.kind,
                "prompt": made.prompt,
                "completion": made.answer,
                "rejected": made.rejected,
            }
            file.write((json.dumps(record) + "\n").encode())


if __name__ == "__main__":
    main()
