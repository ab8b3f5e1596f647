"""Rows of 4-bit weights, stored as weight + 8 in the halves of a byte.

With AVX-512 VNNI the upper half is masked where it stands: 16 times the code is an unsigned byte too, and
its sum is shifted once a block, exactly. For AVX2 the halves are shifted first: a pair gives 2·15·128 =
3840 at most in size, and 8 pairs meet in an int16 sum, 30720; halves that stay in place would overflow it.
"""

from typing import Any

from quant.dotproduct import dot_four, dot_pairs, dot_wide_pairs, settle
from quant.jit import helper, kernel
from quant.kernels.rows import product
from quant.kernels.ternary.product import AHEAD, SUMS_PAIR
from quant.lanes import join, pair_of, pick, repeat, sum_of_neighbours
from quant.registers import i8x4, i8x64, i16x4, i16x16, i16x64, i32x8, i32x16, tile
from quant.simd import (
    bitcast,
    broadcast,
    broadcast_strided,
    load,
    prefetch,
    shift_left,
    shift_right,
    shift_right_signed,
    sign_extend,
    splat,
    zero_extend,
    zeros,
)

PAIR_BYTES = 1024
CODES_PAIR, NARROW_PAIR = tile(i32x8, 4), tile(i16x16, 4)
TOKENS_4, NARROW_4 = tile(i32x8, 4), tile(i16x16, 4)


@helper
def pair_sums_vnni(w: int, q: int, start: int) -> Any:
    ones, sixteens = splat(SUMS_PAIR, start * 8), zeros(SUMS_PAIR)
    for t in range(8):
        v = load(SUMS_PAIR, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        prefetch(w + t * 128 + AHEAD + 64)
        ones = dot_four(ones, v & splat(i32x16, 0x0F0F0F0F), broadcast(i32x16, q + t * 8))
        sixteens = dot_four(sixteens, v & splat(i32x16, 0xF0F0F0F0), broadcast(i32x16, q + t * 8 + 4))
    return ones + shift_right_signed(sixteens, 4)


@helper
def tile_sums_vnni(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    sums, half = shift_left(start, 3), splat(i32x16, 0x0F0F0F0F)
    for t in range(8):
        v = load(i32x16, w + t * 128)
        sums = dot_four(sums, v & half, broadcast_strided(kind, q + t * 8, q_stride))
        sums = dot_four(sums, shift_right(v, 4) & half, broadcast_strided(kind, q + t * 8 + 4, q_stride))
    return sums


@helper
def pair_sums_avx2(w: int, q: int, start: int) -> Any:
    low, high, half = zeros(NARROW_PAIR), zeros(NARROW_PAIR), splat(i32x8, 0x0F0F0F0F)
    for t in range(8):
        v = load(CODES_PAIR, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        prefetch(w + t * 128 + AHEAD + 64)
        low = low + dot_pairs(v & half, broadcast(i32x8, q + t * 8))
        high = high + dot_pairs(shift_right(v, 4) & half, broadcast(i32x8, q + t * 8 + 4))
    ones = splat(i16x16, 1)
    sums = dot_wide_pairs(low, ones) + dot_wide_pairs(high, ones) + splat(i32x8, start * 8)
    return pair_of(join(pick(sums, 0), pick(sums, 1)), join(pick(sums, 2), pick(sums, 3)))


@helper
def eight_rows_avx2(w: int, q: int, q_stride: int) -> Any:
    """Σ code · q of eight rows for four tokens."""
    low, high, half = zeros(NARROW_4), zeros(NARROW_4), splat(i32x8, 0x0F0F0F0F)
    for t in range(8):
        v = load(i32x8, w + t * 128)
        x = broadcast_strided(TOKENS_4, q + t * 8, q_stride)
        low = settle(low + dot_pairs(v & half, x))
        x = broadcast_strided(TOKENS_4, q + t * 8 + 4, q_stride)
        high = settle(high + dot_pairs(shift_right(v, 4) & half, x))
    ones = splat(i16x16, 1)
    return dot_wide_pairs(low, ones) + dot_wide_pairs(high, ones)


@helper
def tile_sums_avx2(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    sums = join(eight_rows_avx2(w, q, q_stride), eight_rows_avx2(w + 32, q, q_stride))
    return sums + shift_left(start, 3)


@helper
def block_sums_plain(w: int, q: int, start: int) -> Any:
    """16 products of at most 15·128 in size meet in an int16 sum: 30720."""
    narrow, half = zeros(i16x64), splat(i32x16, 0x0F0F0F0F)
    for t in range(8):
        v = load(i32x16, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        for c in range(0, 8, 4):
            x = repeat(i16x64, sign_extend(i16x4, load(i8x4, q + t * 8 + c)))
            narrow = narrow + zero_extend(i16x64, bitcast(i8x64, v & half)) * x
            v = shift_right(v, 4)
    return sum_of_neighbours(dot_wide_pairs(narrow, splat(i16x64, 1))) + splat(i32x16, start * 8)


@helper
def pair_sums_plain(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums_plain(w, q, start), block_sums_plain(w + 64, q, start))


@kernel
def matmul_vnni(arguments: int, first: int, last: int) -> None:
    product.matmul(pair_sums_vnni, tile_sums_vnni, PAIR_BYTES, arguments, first, last)


@kernel
def selected_vnni(arguments: int, first: int, last: int) -> None:
    product.selected(pair_sums_vnni, PAIR_BYTES, arguments, first, last)


@kernel
def matmul_avx2(arguments: int, first: int, last: int) -> None:
    product.matmul(pair_sums_avx2, tile_sums_avx2, PAIR_BYTES, arguments, first, last)


@kernel
def selected_avx2(arguments: int, first: int, last: int) -> None:
    product.selected(pair_sums_avx2, PAIR_BYTES, arguments, first, last)


@kernel
def matmul_plain(arguments: int, first: int, last: int) -> None:
    product.one_by_one(pair_sums_plain, PAIR_BYTES, arguments, first, last)


@kernel
def selected_plain(arguments: int, first: int, last: int) -> None:
    product.selected(pair_sums_plain, PAIR_BYTES, arguments, first, last)
