"""Rows of 2-bit weights: the tiles and the integer sums of ternary matrices, with one scale a row."""

from quant.jit import kernel
from quant.kernels.rows import product
from quant.kernels.ternary import avx2, avxvnni, plain, vnni
from quant.kernels.ternary.product import PAIR_BYTES


@kernel
def matmul_vnni(arguments: int, first: int, last: int) -> None:
    product.matmul(vnni.pair_sums, vnni.tile_sums, PAIR_BYTES, arguments, first, last)


@kernel
def selected_vnni(arguments: int, first: int, last: int) -> None:
    product.selected(vnni.pair_sums, PAIR_BYTES, arguments, first, last)


@kernel
def matmul_avxvnni(arguments: int, first: int, last: int) -> None:
    product.matmul(avxvnni.pair_sums, avxvnni.tile_sums, PAIR_BYTES, arguments, first, last)


@kernel
def selected_avxvnni(arguments: int, first: int, last: int) -> None:
    product.selected(avxvnni.pair_sums, PAIR_BYTES, arguments, first, last)


@kernel
def matmul_avx2(arguments: int, first: int, last: int) -> None:
    product.matmul(avx2.pair_sums, avx2.tile_sums, PAIR_BYTES, arguments, first, last)


@kernel
def selected_avx2(arguments: int, first: int, last: int) -> None:
    product.selected(avx2.pair_sums, PAIR_BYTES, arguments, first, last)


@kernel
def matmul_plain(arguments: int, first: int, last: int) -> None:
    product.one_by_one(plain.pair_sums, PAIR_BYTES, arguments, first, last)


@kernel
def selected_plain(arguments: int, first: int, last: int) -> None:
    product.selected(plain.pair_sums, PAIR_BYTES, arguments, first, last)
