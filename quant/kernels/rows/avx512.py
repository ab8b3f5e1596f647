"""AVX-512 without VNNI: rows of 8, 4 and 2 bits in registers of 64 bytes."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.rows import int4, int8, product
from quant.kernels.rows.signed import int4_sums, int4_tile, int8_sums, int8_tile
from quant.kernels.ternary import avx512 as ternary
from quant.kernels.ternary import product as ternary_product
from quant.kernels.ternary.product import SUMS_PAIR
from quant.registers import i8x64, i16x32, i32x16, tile
from quant.simd import shift_left, splat

BYTES_PAIR = tile(i8x64, 2)


@helper
def int8_pair_sums(w: int, q: int, start: int) -> Any:
    return int8_sums(BYTES_PAIR, i32x16, i8x64, i16x32, w, q)


@helper
def int8_tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    return int8_tile(kind, i8x64, i16x32, w, q, q_stride)


@helper
def int4_pair_sums(w: int, q: int, start: int) -> Any:
    return int4_sums(SUMS_PAIR, i32x16, i16x32, w, q) + splat(i32x16, start * 8)


@helper
def int4_tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    return int4_tile(kind, i32x16, i16x32, w, q, q_stride) + shift_left(start, 3)


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
