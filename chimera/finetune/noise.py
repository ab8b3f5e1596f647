"""Random directions by counting, in PyTorch: any part of one is made anew from its key, with the same bits
everywhere.

The words are `quant.philox`'s, with the counter (block, stream, step, pair) and the seed as key; a stream
is a tensor's place among those that are trained. 128 values of a direction are the signs of one block, 1
for a set bit, or normal values for the halves of the words of 16 blocks, read from a table of 2^16
quantiles that are multiples of 2^-12. So neither a logarithm nor a cosine is left to a machine's library.
"""

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant.philox import random_words

Distribution = Literal["rademacher", "gaussian"]

SPAN = 128
"""Values of a direction that are numbered together."""
_BLOCKS_OF_HALVES = 16
_QUANTILES = 1 << 16
_QUANTILE_BITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionKey:
    """Which direction is meant."""

    seed: int
    step: int
    pair: int = 0
    distribution: Distribution = "rademacher"


def direction(
    first: int, count: int, *, stream: int, key: DirectionKey, device: torch.device | str = "cpu"
) -> Tensor:
    """Some spans of a tensor's direction, [count, 128] in float32."""
    if key.distribution == "gaussian":
        return normal_values(halves(first, count, stream=stream, key=key, device=device))
    words = _words(first, count, stream=stream, key=key)
    bytes_NB = torch.from_numpy(words.view(np.uint8)).to(device)
    return unpack_bits(bytes_NB, table=_signs(str(device)))


def halves(
    first: int, count: int, *, stream: int, key: DirectionKey, device: torch.device | str = "cpu"
) -> Tensor:
    """Whole numbers below 2^16 for some spans, [count, 128] in int32."""
    words = _words(first * _BLOCKS_OF_HALVES, count * _BLOCKS_OF_HALVES, stream=stream, key=key)
    return torch.from_numpy(words.view("<u2").astype(np.int32)).to(device).view(count, SPAN)


def normal_values(halves_NS: Tensor) -> Tensor:
    """The normal quantiles that whole numbers below 2^16 stand for."""
    return _normal_table(str(halves_NS.device))[halves_NS]


def _words(first: int, count: int, *, stream: int, key: DirectionKey) -> NDArray[np.uint32]:
    words = random_words(count, seed=key.seed, stream=stream, step=key.step, pair=key.pair, first_block=first)
    return words.astype("<u4", copy=False)


def unpack_bits(bytes_NB: Tensor, *, table: Tensor) -> Tensor:
    """The eight values that a table holds for each byte, side by side: [N, 8 B]."""
    return table.index_select(0, bytes_NB.flatten().int()).view(bytes_NB.shape[0], -1)


@cache
def bits_of_bytes(device: str) -> Tensor:
    """The eight bits of every byte, lowest first, as 0 and 1 in float32."""
    return (torch.arange(256)[:, None] >> torch.arange(8) & 1).float().to(device)


@cache
def _signs(device: str) -> Tensor:
    """The eight bits of every byte as -1 and 1."""
    return 2 * bits_of_bytes(device) - 1


@cache
def _normal_table(device: str) -> Tensor:
    """The normal quantiles in the middles of 2^16 equal shares, on their grid."""
    normal, scale = NormalDist(), 1 << _QUANTILE_BITS
    upper = [
        round(normal.inv_cdf((place + 0.5) / _QUANTILES) * scale)
        for place in range(_QUANTILES // 2, _QUANTILES)
    ]
    both = [-value for value in reversed(upper)] + upper
    return (torch.tensor(both, dtype=torch.float64) / scale).float().to(device)
