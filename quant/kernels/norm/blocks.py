"""A block of 64 floats in registers, and its int8 form: where every operation that quantises ends.

Largest sizes are compared as integers: the bits of floats without a sign are ordered as they are, infinity
and NaN above all, so a NaN is never lost, and no order of comparing matters.
"""

from typing import Any

from quant.jit import helper
from quant.kernels.elementary.constants import INFINITY_BITS, NAN_BITS
from quant.lanes import add_lanes, lane, max_lanes, pick
from quant.registers import f32, f32x4, f32x16, i8x16, i32, i32x4, i32x16, tile
from quant.simd import (
    bitcast,
    load,
    load_first,
    maximum,
    put,
    round_even,
    splat,
    store,
    to_integer,
    truncate,
    zeros,
)

BLOCK_KIND, CODES_KIND = tile(f32x16, 4), tile(i8x16, 4)
SIZE_BITS = 0x7FFFFFFF
SMALLEST_MAXIMUM_BITS = 0x3727C5AC  # 1e-5


@helper
def place_of_block(count: int, number: int) -> Any:
    """Token and block of the block with a number, where a row has `count` inputs."""
    blocks = (count + 63) >> 6
    return number // blocks, number % blocks


@helper
def block_after(count: int, token: int, block: int) -> Any:
    """The next one, with no division: that takes as long as half a block's work."""
    if (block + 1) * 64 < count:
        return token, block + 1
    return token + 1, 0


@helper
def load_block(address: int, left: int) -> Any:
    """64 floats, or as many as are left of a row and zeros after them."""
    if left >= 64:
        return load(BLOCK_KIND, address)
    return load_first(BLOCK_KIND, address, left)


@helper
def store_quantized(values: Any, q: int, d: int, start: int) -> None:
    """The codes, the scale and −Σ codes of one block."""
    sizes = bitcast(i32x16, values) & splat(i32x16, SIZE_BITS)
    low, high = maximum(pick(sizes, 0), pick(sizes, 1)), maximum(pick(sizes, 2), pick(sizes, 3))
    most = max(max_lanes(maximum(low, high)), SMALLEST_MAXIMUM_BITS)
    largest = bitcast(f32x4, splat(i32x4, most))
    if most < INFINITY_BITS:
        put(f32, d, lane(largest / splat(f32x4, 127.0), 0))
        inverse = lane(splat(f32x4, 127.0) / largest, 0)
        codes = to_integer(i32x16, round_even(values * splat(f32x16, inverse)))
        store(q, truncate(i8x16, codes))
        sums = (pick(codes, 0) + pick(codes, 1)) + (pick(codes, 2) + pick(codes, 3))
        put(i32, start, -add_lanes(sums))
    else:  # CPUs differ in what integer they make of a NaN
        put(i32, d, INFINITY_BITS if most == INFINITY_BITS else NAN_BITS)
        store(q, zeros(CODES_KIND))
        put(i32, start, 0)
