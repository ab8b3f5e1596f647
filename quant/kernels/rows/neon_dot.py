"""NEON with dot product, rows of 8, 4 and 2 bits: the sums that start at −Σ q, and the products with them.

Bytes of 8-bit rows are signed as the instruction wants them, so nothing has to be taken away. The halves of
4-bit rows are masked or shifted, which costs the same: 15 at most, and signed bytes too.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.rows import int4, int8, product
from quant.kernels.ternary import neon_dot as ternary
from quant.kernels.ternary.neon_dot import TOKENS_4, four_inputs
from quant.kernels.ternary.product import AHEAD, PAIR_BYTES
from quant.lanes import broadcast_lane, pair_of, repeat
from quant.neon import dot_four_signed
from quant.registers import i8x64, i32x4, i32x16, tile
from quant.simd import (
    bitcast,
    load,
    load_strided,
    prefetch,
    shift_left,
    shift_right,
    splat,
    zeros,
)

SUMS_4 = tile(i32x16, 4)


@helper
def block_sums_int8(w: int, q: int) -> Any:
    """The sums of 16 rows over one block."""
    sums = zeros(i32x16)
    for t in range(4):
        x = load(i32x4, q + t * 16)
        for place in range(4):
            prefetch(w + t * 512 + place * 128 + AHEAD)
        sums = dot_four_signed(sums, load(i32x16, w + t * 512), four_inputs(x, 0))
        sums = dot_four_signed(sums, load(i32x16, w + t * 512 + 128), four_inputs(x, 1))
        sums = dot_four_signed(sums, load(i32x16, w + t * 512 + 256), four_inputs(x, 2))
        sums = dot_four_signed(sums, load(i32x16, w + t * 512 + 384), four_inputs(x, 3))
    return sums


@helper
def pair_sums_int8(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums_int8(w, q), block_sums_int8(w + 64, q))


@helper
def tile_sums_int8(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    sums = zeros(SUMS_4)
    for t in range(4):
        x = load_strided(TOKENS_4, q + t * 16, q_stride)
        v = load(i32x16, w + t * 512)
        sums = dot_four_signed(sums, v, repeat(i32x16, broadcast_lane(x, 0)))
        v = load(i32x16, w + t * 512 + 128)
        sums = dot_four_signed(sums, v, repeat(i32x16, broadcast_lane(x, 1)))
        v = load(i32x16, w + t * 512 + 256)
        sums = dot_four_signed(sums, v, repeat(i32x16, broadcast_lane(x, 2)))
        v = load(i32x16, w + t * 512 + 384)
        sums = dot_four_signed(sums, v, repeat(i32x16, broadcast_lane(x, 3)))
    return sums


@helper
def block_sums_int4(w: int, q: int, start: int) -> Any:
    """The sums of 16 rows over one block."""
    sums, half = splat(i32x16, start * 8), splat(i8x64, 15)
    for t in range(4):
        x, at = load(i32x4, q + t * 16), w + t * 256
        prefetch(at + AHEAD)
        prefetch(at + 128 + AHEAD)
        v, u = load(i8x64, at), load(i8x64, at + 128)
        sums = dot_four_signed(sums, bitcast(i32x16, v & half), four_inputs(x, 0))
        sums = dot_four_signed(sums, bitcast(i32x16, shift_right(v, 4)), four_inputs(x, 1))
        sums = dot_four_signed(sums, bitcast(i32x16, u & half), four_inputs(x, 2))
        sums = dot_four_signed(sums, bitcast(i32x16, shift_right(u, 4)), four_inputs(x, 3))
    return sums


@helper
def pair_sums_int4(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums_int4(w, q, start), block_sums_int4(w + 64, q, start))


@helper
def tile_sums_int4(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    sums, half = shift_left(start, 3), splat(i8x64, 15)
    for t in range(4):
        x, at = load_strided(TOKENS_4, q + t * 16, q_stride), w + t * 256
        v = load(i8x64, at)
        low, high = bitcast(i32x16, v & half), bitcast(i32x16, shift_right(v, 4))
        sums = dot_four_signed(sums, low, repeat(i32x16, broadcast_lane(x, 0)))
        sums = dot_four_signed(sums, high, repeat(i32x16, broadcast_lane(x, 1)))
        v = load(i8x64, at + 128)
        low, high = bitcast(i32x16, v & half), bitcast(i32x16, shift_right(v, 4))
        sums = dot_four_signed(sums, low, repeat(i32x16, broadcast_lane(x, 2)))
        sums = dot_four_signed(sums, high, repeat(i32x16, broadcast_lane(x, 3)))
    return sums


@kernel
def int8_matmul(arguments: int, first: int, last: int) -> None:
    product.matmul(pair_sums_int8, tile_sums_int8, int8.PAIR_BYTES, arguments, first, last)


@kernel
def int8_selected(arguments: int, first: int, last: int) -> None:
    product.selected(pair_sums_int8, int8.PAIR_BYTES, arguments, first, last)


@kernel
def int4_matmul(arguments: int, first: int, last: int) -> None:
    product.matmul(pair_sums_int4, tile_sums_int4, int4.PAIR_BYTES, arguments, first, last)


@kernel
def int4_selected(arguments: int, first: int, last: int) -> None:
    product.selected(pair_sums_int4, int4.PAIR_BYTES, arguments, first, last)


@kernel
def int2_matmul(arguments: int, first: int, last: int) -> None:
    product.matmul(ternary.pair_sums, ternary.tile_sums, PAIR_BYTES, arguments, first, last)


@kernel
def int2_selected(arguments: int, first: int, last: int) -> None:
    product.selected(ternary.pair_sums, PAIR_BYTES, arguments, first, last)
