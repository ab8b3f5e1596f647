"""NEON without dot product, rows of 8, 4 and 2 bits: products of bytes in int16 sums, widened in time.

A product of 8-bit rows is 128·127 = 16256 at most in size, as no activation is −128, so two of them fit in an
int16 sum: 32512. One of 4-bit rows is 15·128 = 1920 at most, and the 16 of a block fit: 30720.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.rows import int4, int8, product
from quant.kernels.ternary import neon as ternary
from quant.kernels.ternary.neon import (
    HALVES_4,
    NARROW_4,
    TOKENS_4,
    four_inputs,
    four_inputs_half,
)
from quant.kernels.ternary.product import AHEAD, PAIR_BYTES
from quant.lanes import join, pair_of, sum_of_neighbours
from quant.neon import add_pairs, products
from quant.registers import i8x16, i8x32, i8x64, i16x64, i32x4, i32x8, i32x16, i32x32, tile
from quant.simd import (
    bitcast,
    broadcast_strided,
    load,
    load_strided,
    prefetch,
    shift_left,
    shift_right,
    splat,
    zeros,
)

QUARTERS_4 = tile(i32x8, 4)


@helper
def block_sums_int8(w: int, q: int) -> Any:
    """The sums of 16 rows over one block."""
    sums = zeros(i32x32)
    for t in range(4):
        x = load(i32x4, q + t * 16)
        for place in range(4):
            prefetch(w + t * 512 + place * 128 + AHEAD)
        first = products(load(i8x64, w + t * 512), four_inputs(x, 0))
        sums = add_pairs(sums, first + products(load(i8x64, w + t * 512 + 128), four_inputs(x, 1)))
        first = products(load(i8x64, w + t * 512 + 256), four_inputs(x, 2))
        sums = add_pairs(sums, first + products(load(i8x64, w + t * 512 + 384), four_inputs(x, 3)))
    return sum_of_neighbours(sums)


@helper
def pair_sums_int8(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums_int8(w, q), block_sums_int8(w + 64, q))


@helper
def four_rows_int8(sums: Any, w: int, x: Any, y: Any) -> Any:
    """Sums of 4 rows for four tokens, and with them the products with eight more inputs."""
    first = products(load(i8x16, w), bitcast(i8x16, x))
    return add_pairs(sums, first + products(load(i8x16, w + 128), bitcast(i8x16, y)))


@helper
def eight_rows_int8(w: int, q: int, q_stride: int) -> Any:
    """Σ code · q of 8 rows over one block for four tokens; 4 rows at a time, for want of registers."""
    low, high = zeros(QUARTERS_4), zeros(QUARTERS_4)
    for t in range(8):
        x = broadcast_strided(TOKENS_4, q + t * 8, q_stride)
        y = broadcast_strided(TOKENS_4, q + t * 8 + 4, q_stride)
        low = four_rows_int8(low, w + t * 256, x, y)
        high = four_rows_int8(high, w + t * 256 + 16, x, y)
    return join(sum_of_neighbours(low), sum_of_neighbours(high))


@helper
def tile_sums_int8(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    return join(eight_rows_int8(w, q, q_stride), eight_rows_int8(w + 32, q, q_stride))


@helper
def block_sums_int4(w: int, q: int, start: int) -> Any:
    """The sums of 16 rows over one block."""
    narrow, half = zeros(i16x64), splat(i8x64, 15)
    for t in range(4):
        x, at = load(i32x4, q + t * 16), w + t * 256
        prefetch(at + AHEAD)
        prefetch(at + AHEAD + 128)
        v, u = load(i8x64, at), load(i8x64, at + 128)
        narrow = narrow + products(v & half, four_inputs(x, 0))
        narrow = narrow + products(shift_right(v, 4), four_inputs(x, 1))
        narrow = narrow + products(u & half, four_inputs(x, 2))
        narrow = narrow + products(shift_right(u, 4), four_inputs(x, 3))
    return sum_of_neighbours(add_pairs(zeros(i32x32), narrow)) + splat(i32x16, start * 8)


@helper
def pair_sums_int4(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums_int4(w, q, start), block_sums_int4(w + 64, q, start))


@helper
def eight_rows_int4(w: int, q: int, q_stride: int) -> Any:
    """Σ code · q of 8 rows over one block for four tokens."""
    narrow, half = zeros(NARROW_4), splat(i8x32, 15)
    for t in range(4):
        x, at = load_strided(TOKENS_4, q + t * 16, q_stride), w + t * 256
        v = load(i8x32, at)
        narrow = narrow + products(v & half, four_inputs_half(x, 0))
        narrow = narrow + products(shift_right(v, 4), four_inputs_half(x, 1))
        v = load(i8x32, at + 128)
        narrow = narrow + products(v & half, four_inputs_half(x, 2))
        narrow = narrow + products(shift_right(v, 4), four_inputs_half(x, 3))
    return sum_of_neighbours(add_pairs(zeros(HALVES_4), narrow))


@helper
def tile_sums_int4(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    sums = join(eight_rows_int4(w, q, q_stride), eight_rows_int4(w + 32, q, q_stride))
    return sums + shift_left(start, 3)


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
