"""The processes of a run: one alone, or those that torchrun starts, which split the rows of each batch."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """This process among those of its run."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one owns the run's folder and speaks for all."""
        return self.rank == 0

    def first_makes(self, make: Callable[[], Made]) -> Made:
        """The first worker makes on disk what the others then find there."""
        made = make() if self.is_first else None
        if self.count > 1:
            dist.barrier()
        return make() if made is None else made

    def any_says(self, verdict: bool) -> bool:
        """Whether any worker says so; every worker must ask."""
        if self.count == 1:
            return verdict
        word = torch.tensor([int(verdict)], device=self.device)
        dist.all_reduce(word, op=dist.ReduceOp.MAX)
        return bool(word.item())

    def all_rows(self, tensor_BX: Tensor) -> Tensor:
        """The rows of all workers in the order of the batch, on the CPU. Every worker must ask."""
        if self.count == 1:
            return tensor_BX.cpu()
        shape = (self.count * tensor_BX.shape[0], *tensor_BX.shape[1:])
        whole = torch.empty(shape, dtype=tensor_BX.dtype, device=tensor_BX.device)
        dist.all_gather_into_tensor(whole, tensor_BX.contiguous())
        return whole.cpu()

    def own_rows(self, whole_BX: Tensor) -> Tensor:
        """This worker's share of `all_rows`, on its device."""
        share = whole_BX.shape[0] // self.count
        return whole_BX[self.rank * share : (self.rank + 1) * share].to(self.device)


def is_first_worker() -> bool:
    """Whether this process speaks for its run, as torchrun's environment says; alone, it does."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined(device: torch.device) -> Iterator[Workers]:
    """Join the other workers that torchrun has started; alone without it."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count == 1:
        yield Workers(rank=0, count=1, device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield Workers(rank=rank, count=count, device=device)
    finally:
        dist.destroy_process_group()
