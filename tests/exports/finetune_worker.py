"""One worker of a fine-tuning, as a process: python -m tests.exports.finetune_worker MODEL LOG WHERE STEPS …

It prints the port where it holds the store. After the steps may stand `await N UNIT`: it computes its UNIT-th
unit when N workers have come; or `die UNIT`: it takes that unit and is killed before it says what it found.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chimera.finetune.exchange import open_exchange
from exports.mezo import TorchMezo
from quant.adapter import read_adapter
from runtime.finetune.method import Exchange, Item, MethodOptions
from runtime.finetune.run import Run, Task, settings_of
from runtime.finetune.settings import RunSettings

SEED = 3
LONG_S = 240.0


class Watched(TorchMezo):
    """A method that does something at one of its units."""

    _units = 0
    at_unit: tuple[int, Callable[[], None]] = (0, lambda: None)

    def losses(self, items: Sequence[Item]) -> NDArray[np.float64]:
        self._units += 1
        unit, do = self.at_unit
        if self._units == unit:
            do()
        return super().losses(items)


def items(count: int = 24) -> list[Item]:
    """Sequences of several lengths."""
    draw = np.random.default_rng(0)
    found: list[Item] = []
    for number in range(count):
        ids = draw.integers(1, 64, size=6 + number % 5)
        found.append(
            Item(
                ids_T=ids,
                counted_T=np.arange(len(ids)) >= 3,
                num_prompt=3,
                prompt="",
                answer="",
                file="",
                line=number,
            )
        )
    return found


def take_part(method: TorchMezo, log: Path, *, steps: int, exchange: Exchange | None = None) -> None:
    """Begin a log of the run that all workers take part in, or go on with one."""
    settings = RunSettings(steps=steps, batch=8, unit=2, move=0.01)
    if log.exists():
        settings = settings_of(read_adapter(log))
    task = Task(items=items(), validation=(), digest="", seed=SEED)
    run = Run(method, task, settings, name="mezo", exchange=exchange)
    if log.exists():
        run.go_on(log)
    else:
        run.begin(log)


def main() -> None:
    """Take part in the run."""
    model, log, where, steps, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    method = Watched(MethodOptions(model=Path(model), seed=SEED))
    exchange = open_exchange("test", where=where)
    print(exchange.port, flush=True)

    def wait() -> None:
        until = time.monotonic() + LONG_S
        while exchange.members < int(rest[1]):
            assert time.monotonic() < until, "nobody comes"
            time.sleep(0.02)

    if rest:
        doings = {"die": lambda: os.kill(os.getpid(), signal.SIGKILL), "await": wait}
        method.at_unit = int(rest[-1]), doings[rest[0]]
    take_part(method, Path(log), steps=int(steps), exchange=exchange)
    print(exchange.traffic.units, flush=True)


if __name__ == "__main__":
    main()
