"""Three small tasks that the shipped model does not know, made from a seed: one to classify, two to write.

    python -m benchmarks.finetune_tasks.tasks FOLDER --seed 0      three files of each task

Each is near to what the model can do: it repeats words well, and talks of moods in its stories. So what is
to be learnt is what is asked for, and not how it is done. No prompt of one file is in another.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chimera.data.task_makers import WORDS
from quant.atomic import atomic_file

SIZES: Mapping[str, int] = {"train": 2000, "valid": 100, "test": 500}
"""Items of each file, in the order in which they are drawn."""
GOOD = ("kind", "friendly", "clean", "lovely", "tasty", "bright", "calm", "happy", "gentle", "helpful")
BAD = ("rude", "dirty", "broken", "cold", "noisy", "boring", "angry", "ugly", "sad", "lazy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A question and its only right answer."""

    prompt: str
    answer: str

    def check(self, reply: str) -> bool:
        """Whether a reply is the answer, whatever space surrounds it."""
        return " ".join(reply.split()) == self.answer


def items(task: str, *, part: str, seed: int) -> list[Item]:
    """The items of one file of a task."""
    drawn = _distinct(task, seed=seed)
    for name, size in SIZES.items():
        found = [next(drawn) for _ in range(size)]
        if name == part:
            return found
    raise KeyError(f"no part {part!r} of a task; there are {', '.join(SIZES)}")


def write_items(folder: Path, *, seed: int) -> None:
    """All files of all tasks, as records of prompt and completion."""
    for task in TASKS:
        for part in SIZES:
            path = folder / task / f"{part}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                for item in items(task, part=part, seed=seed):
                    record = {"prompt": item.prompt, "completion": item.answer}
                    file.write((json.dumps(record) + "\n").encode())


def _distinct(task: str, *, seed: int) -> Iterator[Item]:
    draw, seen = random.Random(f"{seed}/{task}"), set[str]()
    while True:
        item = TASKS[task](draw)
        if item.prompt not in seen:
            seen.add(item.prompt)
            yield item


def _mood(draw: random.Random) -> Item:
    good = draw.random() < 0.5
    first, second = draw.sample(GOOD if good else BAD, 2)
    one, other = draw.sample(WORDS, 2)
    told = f"The {one} was {first} and the {other} was {second}."
    return Item(prompt=f"{told} Was that good or bad?", answer="good" if good else "bad")


def _commas(draw: random.Random) -> Item:
    words = draw.sample(WORDS, draw.randint(3, 5))
    return Item(prompt=f"Write these words with commas: {' '.join(words)}", answer=", ".join(words))


def _without(draw: random.Random) -> Item:
    words = draw.sample(WORDS, draw.randint(3, 5))
    asked = f"Repeat these words without the first one: {' '.join(words)}"
    return Item(prompt=asked, answer=" ".join(words[1:]))


TASKS: Mapping[str, Callable[[random.Random], Item]] = {
    "mood": _mood,
    "commas": _commas,
    "without": _without,
}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_items(args.folder, seed=args.seed)


if __name__ == "__main__":
    main()
