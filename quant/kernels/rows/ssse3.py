"""SSSE3: rows of 8, 4 and 2 bits in registers of 16 bytes."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.rows import int4, int8, product
from quant.kernels.rows.signed import int4_sums, int4_tile, int8_sums, int8_tile
from quant.kernels.ternary import product as ternary_product
from quant.kernels.ternary import ssse3 as ternary
from quant.kernels.ternary.ssse3 import joined
from quant.lanes import join, pair_of
from quant.registers import i8x16, i16x8, i32x4, i32x16, tile
from quant.simd import shift_left, splat

BYTES, WORDS = tile(i8x16, 4), tile(i32x4, 4)
TOKENS_4 = tile(i32x4, 4)


@helper
def int8_pair_sums(w: int, q: int, start: int) -> Any:
    low = joined(int8_sums(BYTES, i32x4, i8x16, i16x8, w, q))
    return pair_of(low, joined(int8_sums(BYTES, i32x4, i8x16, i16x8, w + 64, q)))


@helper
def int8_eight_rows(w: int, q: int, q_stride: int) -> Any:
    low = int8_tile(TOKENS_4, i8x16, i16x8, w, q, q_stride)
    return join(low, int8_tile(TOKENS_4, i8x16, i16x8, w + 16, q, q_stride))


@helper
def int8_tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    return join(int8_eight_rows(w, q, q_stride), int8_eight_rows(w + 32, q, q_stride))


@helper
def int4_pair_sums(w: int, q: int, start: int) -> Any:
    low = joined(int4_sums(WORDS, i32x4, i16x8, w, q))
    sums = pair_of(low, joined(int4_sums(WORDS, i32x4, i16x8, w + 64, q)))
    return sums + splat(i32x16, start * 8)


@helper
def int4_eight_rows(w: int, q: int, q_stride: int) -> Any:
    low = int4_tile(TOKENS_4, i32x4, i16x8, w, q, q_stride)
    return join(low, int4_tile(TOKENS_4, i32x4, i16x8, w + 16, q, q_stride))


@helper
def int4_tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    sums = join(int4_eight_rows(w, q, q_stride), int4_eight_rows(w + 32, q, q_stride))
    return sums + shift_left(start, 3)


@kernel
def int8_matmul(arguments: int, first: int, last: int) -> None:
    product.matmul(int8_pair_sums, int8_tile_sums, int8.PAIR_BYTES, arguments, first, last)


@kernel
def int8_selected(arguments: int, first: int, last: int) -> None:
    product.selected(int8_pair_sums, int8.PAIR_BYTES, arguments, first, last)


@kernel
def int4_matmul(arguments: int, first: int, last: int) -> None:
    product.matmul(int4_pair_sums, int4_tile_sums, int4.PAIR_BYTES, arguments, first, last)


@kernel
def int4_selected(arguments: int, first: int, last: int) -> None:
    product.selected(int4_pair_sums, int4.PAIR_BYTES, arguments, first, last)


@kernel
def int2_matmul(arguments: int, first: int, last: int) -> None:
    product.matmul(ternary.pair_sums, ternary.tile_sums, ternary_product.PAIR_BYTES, arguments, first, last)


@kernel
def int2_selected(arguments: int, first: int, last: int) -> None:
    product.selected(ternary.pair_sums, ternary_product.PAIR_BYTES, arguments, first, last)
