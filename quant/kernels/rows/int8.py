"""Rows of 8-bit weights, stored signed.

AVX-512 VNNI wants one factor unsigned: w + 128 is w with its top bit turned, and −128 · Σ q takes the 128
away. AVX2's instruction would overflow int16 with it (2·255·127), so it multiplies |w| with q under the
sign of w: 2·128·127 = 32512 fits, and each sum is widened at once.
"""

from typing import Any

from quant.dotproduct import dot_four, dot_pairs, dot_wide_pairs, with_sign_of
from quant.jit import helper, kernel
from quant.kernels.rows import product
from quant.kernels.ternary.product import AHEAD, SUMS_PAIR
from quant.lanes import join, pair_of, pick, repeat, sum_of_neighbours
from quant.registers import i8x4, i8x32, i8x64, i16x4, i16x16, i16x64, i32x8, i32x16, i32x32, tile
from quant.simd import (
    absolute,
    bitcast,
    broadcast,
    broadcast_strided,
    load,
    prefetch,
    shift_left,
    sign_extend,
    splat,
    zeros,
)

PAIR_BYTES = 2048
CODES_PAIR, SUMS_NARROW_PAIR = tile(i8x32, 4), tile(i32x8, 4)
TOKENS_4, SUMS_NARROW_4 = tile(i32x8, 4), tile(i32x8, 4)


@helper
def pair_sums_vnni(w: int, q: int, start: int) -> Any:
    even, odd = splat(SUMS_PAIR, start * 128), zeros(SUMS_PAIR)
    top = splat(i32x16, 0x80808080)
    for t in range(0, 16, 2):
        at = w + t * 128
        for line in range(0, 256, 64):
            prefetch(at + AHEAD + line)
        even = dot_four(even, load(SUMS_PAIR, at) ^ top, broadcast(i32x16, q + t * 4))
        odd = dot_four(odd, load(SUMS_PAIR, at + 128) ^ top, broadcast(i32x16, q + t * 4 + 4))
    return even + odd


@helper
def tile_sums_vnni(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    sums, top = shift_left(start, 7), splat(i32x16, 0x80808080)
    for t in range(16):
        v = load(i32x16, w + t * 128) ^ top
        sums = dot_four(sums, v, broadcast_strided(kind, q + t * 4, q_stride))
    return sums


@helper
def pair_sums_avx2(w: int, q: int, start: int) -> Any:
    sums = zeros(SUMS_NARROW_PAIR)
    for t in range(16):
        v = load(CODES_PAIR, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        prefetch(w + t * 128 + AHEAD + 64)
        signed = with_sign_of(bitcast(i8x32, broadcast(i32x8, q + t * 4)), v)
        sums = sums + dot_wide_pairs(dot_pairs(absolute(v), signed), splat(i16x16, 1))
    return pair_of(join(pick(sums, 0), pick(sums, 1)), join(pick(sums, 2), pick(sums, 3)))


@helper
def tile_sums_avx2(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    low, high = zeros(SUMS_NARROW_4), zeros(SUMS_NARROW_4)
    ones = splat(i16x16, 1)
    for t in range(16):
        x = bitcast(i8x32, broadcast_strided(TOKENS_4, q + t * 4, q_stride))
        v = load(i8x32, w + t * 128)
        low = low + dot_wide_pairs(dot_pairs(absolute(v), with_sign_of(x, v)), ones)
        v = load(i8x32, w + t * 128 + 32)
        high = high + dot_wide_pairs(dot_pairs(absolute(v), with_sign_of(x, v)), ones)
    return join(low, high)


@helper
def block_sums_plain(w: int, q: int) -> Any:
    sums = zeros(i32x32)
    for t in range(16):
        prefetch(w + t * 128 + AHEAD)
        x = repeat(i16x64, sign_extend(i16x4, load(i8x4, q + t * 4)))
        sums = sums + dot_wide_pairs(sign_extend(i16x64, load(i8x64, w + t * 128)), x)
    return sum_of_neighbours(sums)


@helper
def pair_sums_plain(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums_plain(w, q), block_sums_plain(w + 64, q))


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
