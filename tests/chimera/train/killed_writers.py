"""Processes that are killed while they save: one at a random moment, one before a chosen call of the system.

Run as `python -m … random|calls FOLDER ROUNDS`; the result is JSON on standard output. A process of its own
forks the writers, so that PyTorch is loaded once.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from chimera.train.checkpoint import load_latest, save, saved_steps
from chimera.train.run_folder import RunFolder
from configs.load import preset

KEEP = 2
CALLS = {"mkdir", "open", "flock", "ftruncate", "pwrite", "write", "seek", "fsync", "replace", "unlink"}


def state_of(step: int) -> dict[str, Any]:
    """A state that tells its step in every number."""
    return {"model": {"weight": torch.full((100_000,), float(step))}, "extra": {"step": step}}


def write_on(folder: Path, report: int, *, first: int, saves: int | None) -> None:
    """Save steps from `first` on, and report the one before as soon as the folder is open, then each."""
    with RunFolder.open(folder, config=preset("micro"), settings={"seed": 1}) as run:
        os.write(report, (first - 1).to_bytes(8, "little"))
        for step in count(first) if saves is None else range(first, first + saves):
            save(run.checkpoints, state_of(step), step=step, keep=KEEP)
            os.write(report, step.to_bytes(8, "little"))


def kill_before(call: int) -> None:
    """Kill this process before its n-th call that changes something on the disk."""
    numbers = count()

    def watch(_frame: object, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in CALLS and next(numbers) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def writer(work: Callable[[int], None], *, wait: float | None) -> tuple[int, int]:
    """A forked process that works to its end, or is killed `wait` seconds after it has opened its folder.

    Its exit status and the last step that it reported.
    """
    reading, report = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(report)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(report)
    reported = b""
    if wait is not None:
        reported = os.read(reading, 8)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        reported += pipe.read()
    return os.waitstatus_to_exitcode(status), int.from_bytes(reported[-8:] or bytes(8), "little")


def main(mode: str, folder: Path, rounds: int) -> None:
    """Kill writer after writer, each going on from what the last one left."""
    torch.set_num_threads(1)
    moments = random.Random(5)
    kept = 0
    ends: list[int] = []
    said: list[str] = []
    for number in range(rounds):

        def work(report: int, first: int = kept + 1, call: int = number) -> None:
            if mode == "calls":
                kill_before(call)
            write_on(folder, report, first=first, saves=None if mode == "random" else 2)

        end, reported = writer(work, wait=moments.uniform(0.0, 0.06) if mode == "random" else None)
        ends.append(end)
        latest = load_latest(folder / "checkpoints", say=said.append)
        step = latest.step if latest else 0
        lost = max(reported, kept) - step
        if latest is not None:
            right = state_of(step)
            assert latest.state["extra"] == right["extra"]
            assert torch.equal(latest.state["model"]["weight"], right["model"]["weight"])
        assert lost <= 0, f"round {number}: step {max(reported, kept)} was saved, {step} is left"
        steps = saved_steps(folder / "checkpoints")
        assert len(steps) >= min(KEEP, step), f"round {number}: {steps}"
        kept = step
        if end == 0:
            break
    print(json.dumps({"ends": ends, "kept": kept, "said": said}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
