"""How the workers of a fine-tuning find each other: by torchrun, or where one of them answers."""

from datetime import timedelta

from torch._C._distributed_c10d import TCPStore
from torch.distributed.rendezvous import rendezvous

from chimera.finetune.store import StoreExchange
from configs.errors import ChimeraError

TORCHRUN = "torchrun"
JOIN_SECONDS = 60
"""How long a worker waits for the one with the store."""


def open_exchange(run: str, *, where: str = TORCHRUN) -> StoreExchange:
    """Meet the other workers of a run: by torchrun, or where one holds the store, which is at `:PORT`."""
    if where == TORCHRUN:
        return _of_torchrun(run)
    host, _, digits = where.rpartition(":")
    try:
        store = TCPStore(
            host_name=host or "0.0.0.0",
            port=int(digits),
            is_master=not host,
            timeout=timedelta(seconds=JOIN_SECONDS),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        what = f"nobody answers at {where}" if host else f"port {digits} cannot be listened at"
        raise ChimeraError(
            f"{what}: {_first_line(error)}",
            hint="Start the worker that holds the store first." if host else "Name another port.",
        ) from error
    return StoreExchange(store, run=run, holds_store=not host, port=None if host else store.port)


def _of_torchrun(run: str) -> StoreExchange:
    try:
        store, rank, _ = next(rendezvous("env://"))
    except RuntimeError as error:
        raise ChimeraError(f"the other workers cannot be met: {_first_line(error)}") from error
    return StoreExchange(store, run=run, holds_store=rank == 0)


def _first_line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]
