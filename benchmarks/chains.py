"""Kernels that exist to be measured: many products in one call, and the product of one token rounded twice
or once."""

from typing import Any

from quant.cpu import Form
from quant.jit import helper, kernel
from quant.kernels.arguments import CODES, NUM_BLOCKS, SCALES, STARTS, D, Q, Y, argument
from quant.kernels.operation import Kernel
from quant.kernels.ternary import avx2, plain, vnni
from quant.kernels.ternary.product import PAIR_BYTES, SCALES_BYTES, SCALES_PAIR, TOTALS_PAIR, one_token
from quant.registers import f32x16, i32, llvm_function, ternary
from quant.simd import broadcast, half_to_float, load, store, to_float, zeros

TABLE_BYTES = 96

fused = ternary(llvm_function("fma"))


@kernel
def chain_vnni(tables: int, count: int, first: int, last: int) -> None:
    for i in range(count):
        vnni.matmul(tables + i * TABLE_BYTES, first, last)


@kernel
def chain_avx2(tables: int, count: int, first: int, last: int) -> None:
    for i in range(count):
        avx2.matmul(tables + i * TABLE_BYTES, first, last)


@kernel
def chain_plain(tables: int, count: int, first: int, last: int) -> None:
    for i in range(count):
        plain.matmul(tables + i * TABLE_BYTES, first, last)


@helper
def fused_one_token(pair_sums: Any, arguments: int, pair: int) -> None:
    """As the product for one token, but product and sum are rounded together."""
    num_blocks = argument(arguments, NUM_BLOCKS)
    w = argument(arguments, CODES) + pair * num_blocks * PAIR_BYTES
    s = argument(arguments, SCALES) + pair * ((num_blocks + 1) >> 1) * SCALES_BYTES
    q, d, starts = argument(arguments, Q), argument(arguments, D), argument(arguments, STARTS)
    total = zeros(TOTALS_PAIR)
    for block in range(num_blocks):
        sums = pair_sums(w + block * PAIR_BYTES, q + block * 64, load(i32, starts + block * 4))
        scale = half_to_float(f32x16, load(SCALES_PAIR, s + (block >> 1) * SCALES_BYTES))
        total = fused(scale * broadcast(f32x16, d + block * 4), to_float(f32x16, sums), total)
    store(argument(arguments, Y) + pair * 128, total)


@kernel
def fused_chain_vnni(tables: int, count: int, first: int, last: int) -> None:
    for i in range(count):
        for pair in range(first, last):
            fused_one_token(vnni.pair_sums, tables + i * TABLE_BYTES, pair)


@kernel
def fused_chain_avx2(tables: int, count: int, first: int, last: int) -> None:
    for i in range(count):
        for pair in range(first, last):
            fused_one_token(avx2.pair_sums, tables + i * TABLE_BYTES, pair)


@kernel
def alone_chain_vnni(tables: int, count: int, first: int, last: int) -> None:
    for i in range(count):
        for pair in range(first, last):
            one_token(vnni.pair_sums, tables + i * TABLE_BYTES, pair, 0)


@kernel
def alone_chain_avx2(tables: int, count: int, first: int, last: int) -> None:
    for i in range(count):
        for pair in range(first, last):
            one_token(avx2.pair_sums, tables + i * TABLE_BYTES, pair, 0)


CHAINS: dict[Form, Kernel] = {"avx512vnni": chain_vnni, "avx2": chain_avx2, "plain": chain_plain}
FUSED_CHAINS: dict[Form, Kernel] = {"avx512vnni": fused_chain_vnni, "avx2": fused_chain_avx2}
"""One token, product and sum rounded together."""

ALONE_CHAINS: dict[Form, Kernel] = {"avx512vnni": alone_chain_vnni, "avx2": alone_chain_avx2}
"""The same without the path for many tokens, and rounded separately: what the fused one is compared with."""
