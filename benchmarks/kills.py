"""Processes that are killed while they save a state: what is left is the old file or the new one, always.

    python -m benchmarks.kills --count 1000

A process saves one state after another to the same file; each says in its ids which one it is. It is killed
with SIGKILL after a random time, and the file is opened as any other. Saves of a large state take longer, so
more kills meet one in the middle.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

from runtime.arena import POSITION_OFFSET, aligned_zeros
from runtime.sampling import SamplingSettings
from runtime.session import Talk
from runtime.state import State
from runtime.stream import Snapshot
from runtime.streams.about import Identity
from runtime.streams.state_file import open_state, save_talk

IDENTITY = Identity(name="nobody", model="0" * 64, tokenizer="1" * 64)
NUM_IDS = 1000


@dataclass(kw_only=True, slots=True)
class Kills:
    """What became of the files."""

    whole: int = 0
    in_the_middle: int = 0
    """Kills that left a file half written beside the whole one."""
    lost: int = 0
    """Files that did not open, or held parts of two."""


def talk_number(number: int, *, state_bytes: int) -> Talk:
    """A talk whose every byte says which one it is."""
    arena = aligned_zeros(state_bytes)
    arena[...] = number % 251
    arena[POSITION_OFFSET : POSITION_OFFSET + 8].view("int64")[0] = NUM_IDS
    state = State(arena, rounds=1, digest=IDENTITY.model)
    return Talk(
        snapshot=Snapshot(ids=array("I", [number] * NUM_IDS), state=state, outlook=None),
        system="",
        turns=(),
        is_stale=False,
        settings=SamplingSettings(seed=number),
        rounds=1,
        exit_threshold=0.0,
    )


def kill_savers(folder: Path, *, count: int, seed: int, state_bytes: int = 2**20) -> Kills:
    """Kill so many processes that save to one file, each at a random moment."""
    rng, path, found = random.Random(seed), folder / "talk.state", Kills()
    save_talk(path, talk_number(0, state_bytes=state_bytes), identity=IDENTITY)
    last = 0
    for number in range(count):
        begun, beginning = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(beginning, b"x")
            _save_forever(path, first=1 + number * 1_000_000, state_bytes=state_bytes)
        os.read(begun, 1)
        os.close(begun)
        os.close(beginning)
        time.sleep(rng.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.in_the_middle += any(folder.glob(f".{path.name}.*.partial"))
        last = _looked_at(path, found, last=last, state_bytes=state_bytes)
    return found


def _looked_at(path: Path, found: Kills, *, last: int, state_bytes: int) -> int:
    saved = open_state(path)
    number = saved.ids[0]
    is_one = set(saved.ids) == {number} and saved.about.sampling.seed == str(number)
    is_whole = is_one and bytes(saved.state[64:]) == bytes([number % 251]) * (state_bytes - 64)
    if is_whole and number >= last:
        found.whole += 1
    else:
        found.lost += 1
    return number


def _save_forever(path: Path, *, first: int, state_bytes: int) -> None:
    number = first
    while True:
        save_talk(path, talk_number(number, state_bytes=state_bytes), identity=IDENTITY)
        number += 1


def main() -> None:
    """Kill, and tell."""
    parser = argparse.ArgumentParser(description="Kill processes while they save states.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kilobytes", type=int, default=4096, help="of a state")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kill_savers(
            Path(folder), count=args.count, seed=args.seed, state_bytes=args.kilobytes * 2**10
        )
    print(f"{args.count} kills: {found.whole} whole, {found.lost} lost, {found.in_the_middle} met a save")


if __name__ == "__main__":
    main()
