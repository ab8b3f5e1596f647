"""State of a matrix LSTM, and the floor of its denominator."""

from typing import NamedTuple

import torch
from torch import Tensor

# Where the largest gate is so high that e^{−m} is zero, a zero query would give 0/0. A bound and not a
# summand: as long as it is not met, neither the output nor its gradient depends on m.
DENOMINATOR_FLOOR = 1e-6


class MemoryState(NamedTuple):
    """What a head remembers, divided by e^m."""

    memory_BHKV: Tensor
    normaliser_BHK: Tensor
    log_scale_BH: Tensor
    """m, the largest gate so far, faded; −∞ while nothing has been written."""


def empty_state(
    batch: int,
    *,
    num_heads: int,
    key_dim: int,
    value_dim: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> MemoryState:
    """The state before a text."""
    return MemoryState(
        memory_BHKV=torch.zeros(batch, num_heads, key_dim, value_dim, dtype=dtype, device=device),
        normaliser_BHK=torch.zeros(batch, num_heads, key_dim, dtype=dtype, device=device),
        log_scale_BH=torch.full((batch, num_heads), -torch.inf, dtype=dtype, device=device),
    )


def read(numerator: Tensor, denominator: Tensor, *, log_scale: Tensor) -> Tensor:
    """h = numerator / max(|denominator|, e^{−m}, floor), for [..., V], [...] and [...]."""
    bound = torch.maximum(denominator.abs(), torch.exp(-log_scale)).clamp_min(DENOMINATOR_FLOOR)
    return numerator / bound.unsqueeze(-1)
