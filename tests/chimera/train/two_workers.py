"""Runs by two workers that are forked from one process, so that PyTorch is loaded once.

`python -m … FOLDER DATA` carries states through a run as a whole, and through one that is cut and goes on.
"""

import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from tests.chimera.train.runs import run
from tests.chimera.train.steps import QUIET

LENGTHS: dict[str, Any] = {
    "changes": {
        **QUIET,
        "training": {"phases": [{"name": "ctx_extend", "stages": [[32, "main"], [96, 4, 2e-3]]}]},
    },
    "phase": "ctx_extend",
    "steps": None,
    "accumulate": None,
    "lr": None,
    "save_every": 1,
}


def by_two(out: Path, data: Path, **more: Any) -> None:
    """One run, its rows split among two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_forked(rank, port, out, data, more) for rank in (0, 1)]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(ends):
        sys.exit(f"the workers ended with {ends}")


def _forked(rank: int, port: int, out: Path, data: Path, more: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    end = 1
    try:
        run(out, data, **more)
        end = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(end)


def main(folder: Path, data: Path) -> None:
    """The whole run and the cut one."""
    torch.set_num_threads(1)
    by_two(folder / "whole", data, **LENGTHS)
    by_two(folder / "cut", data, time_limit_s=1e-3, **LENGTHS)
    by_two(folder / "cut", data, resume=True, **LENGTHS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
