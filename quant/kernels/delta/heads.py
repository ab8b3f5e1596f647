"""What recurrences do with one head at a time: sums of products, the norm, the output gate."""

from typing import Any

from quant.jit import helper
from quant.kernels.arguments import argument
from quant.kernels.elementary.functions import number
from quant.lanes import add_lanes
from quant.registers import f32x16, i32x16
from quant.simd import bitcast, load, splat, square_root, zeros

HEADS = 16
"""Heads whose gates are computed at once, one a lane."""

TOKENS = 16
"""Tokens whose gates are computed before the heads take their steps."""


@helper
def sum_of_products(x: int, y: int, size: int) -> Any:
    """Σ x · y of two rows; the size is a multiple of 16."""
    sums = zeros(f32x16)
    for at in range(0, size * 4, 64):
        sums = sums + load(f32x16, x + at) * load(f32x16, y + at)
    return add_lanes(sums)


@helper
def inverse_root(size: int) -> Any:
    """1 / √size in all lanes."""
    return number(1.0) / square_root(splat(f32x16, size))


@helper
def norm_scale(x: int, size: int, eps: Any) -> Any:
    """1 / √(mean + ε) of a head, in all lanes."""
    mean = splat(f32x16, sum_of_products(x, x, size)) / splat(f32x16, size)
    return number(1.0) / square_root(mean + eps)


@helper
def real_argument(arguments: int, place: int) -> Any:
    """A float32 that stands in the table by its bits, in all lanes."""
    return bitcast(f32x16, splat(i32x16, argument(arguments, place)))
