"""Where the workers of a run meet, as the command line says it: by torchrun, or where one of them answers."""

from collections.abc import Mapping
from pathlib import Path

from configs.errors import UsageError

TORCHRUN = "torchrun"
_HIGHEST_PORT = 65535


def check_place(where: str, environment: Mapping[str, str]) -> None:
    """Refuse what is neither torchrun, where it has started this process, nor `:PORT` nor `HOST:PORT`."""
    if where == TORCHRUN:
        if "MASTER_ADDR" not in environment:
            raise UsageError(
                "torchrun has not started this process",
                hint="Start it so: torchrun --nproc-per-node 2 -m runtime.cli.main finetune … --workers",
            )
        return
    _, colon, digits = where.rpartition(":")
    if not colon or not digits.isascii() or not digits.isdigit() or int(digits) > _HIGHEST_PORT:
        raise UsageError(
            f"workers at {where!r}; expected {TORCHRUN}, :PORT or HOST:PORT",
            hint="One worker holds what all exchange, say at :29500; the others name it: host:29500.",
        )


def worker_path(path: Path, environment: Mapping[str, str]) -> Path:
    """Where one of torchrun's processes has its log: the first at the path, another one beside it."""
    rank = environment.get("RANK", "0")
    return path if rank == "0" else path.with_name(f"{path.stem}.worker{rank}{path.suffix}")
