"""A small packed model that can read, data to teach it, and the command that does."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from configs.load import preset
from runtime.finetune.items import Words, read_data
from runtime.finetune.method import Item, Method, MethodOptions, load_method
from runtime.random_model import random_b158
from tests.runtime.cli.talking import ROOT, make_model, make_tokenizer

Finetune = Callable[..., tuple[int, str, str]]
"""The command with a model and data, and its code, answer and complaint."""
PACKED = ("scales", "codes", "state")
LINES: Sequence[dict[str, object]] = [
    *(
        {"prompt": f"Is {number} a number?", "completion": "yes" if number % 3 else "no, it is"}
        for number in range(9)
    ),
    {"text": "A plain text is counted whole."},
    {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "What is a list?"},
            {"role": "assistant", "content": "A row of things."},
        ]
    },
    {"prompt": "Longer than a slice: " + "words and words " * 12, "completion": "so it is"},
]
SCORER = """
def score(prompt, answer, completion):
    return -abs(len(answer) - len(completion))
"""

HALTING = """
import itertools
import sys

numbers = itertools.count(1)


def score(prompt, answer, completion):
    if next(numbers) == {call}:
        print("here", flush=True)
        sys.stdin.read()
    return -abs(len(answer) - len(completion))
"""
"""The same scores; but at one of its calls it says so and waits for somebody to end the process."""


def make(folder: Path) -> Path:
    """The model, its data and a scorer."""
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (folder / "score.py").write_text(SCORER)
    (folder / "model").mkdir()
    make_model(folder / "model")
    return folder


def make_other(folder: Path) -> Path:
    """Another model with the same words."""
    folder.mkdir()
    random_b158(preset("micro"), folder / "model.b158", seed=2)
    make_tokenizer(folder)
    return folder


def prepared(folder: Path, method: str, **given: object) -> Method:
    options = MethodOptions(**({"model": folder / "model", "seed": 7, "num_threads": 1} | given))  # pyright: ignore
    return load_method(method).prepare(options)


def items_of(folder: Path, method: Method) -> list[Item]:
    words = Words(tokenizer=method.tokenizer, template=method.template, longest=400)
    return list(read_data([folder / "data.jsonl"], words).items)


def chimera(*arguments: object) -> "subprocess.Popen[str]":
    """The command in a process of its own; what it reads never ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.cli.main", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
