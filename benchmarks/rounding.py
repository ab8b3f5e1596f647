"""Kernels that exist to be measured: the product of one token, product and sum rounded twice or once."""

from typing import Any

from quant.cpu import Form
from quant.jit import helper, kernel
from quant.kernels.arguments import CODES, NUM_BLOCKS, SCALES, STARTS, D, Q, Y, argument
from quant.kernels.operation import Kernel
from quant.kernels.ternary import avx2, vnni
from quant.kernels.ternary.product import PAIR_BYTES, SCALES_BYTES, SCALES_PAIR, TOTALS_PAIR, one_token
from quant.registers import f32x16, i32, llvm_function, ternary
from quant.simd import broadcast, half_to_float, load, store, to_float, zeros

fused = ternary(llvm_function("fma"))


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
def fused_vnni(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        fused_one_token(vnni.pair_sums, arguments, pair)


@kernel
def fused_avx2(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        fused_one_token(avx2.pair_sums, arguments, pair)


@kernel
def separate_vnni(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        one_token(vnni.pair_sums, arguments, pair, 0)


@kernel
def separate_avx2(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        one_token(avx2.pair_sums, arguments, pair, 0)


FUSED: dict[Form, Kernel] = {"avx512vnni": fused_vnni, "avx2": fused_avx2}
"""Product and sum rounded together."""

SEPARATE: dict[Form, Kernel] = {"avx512vnni": separate_vnni, "avx2": separate_avx2}
"""The same kernel rounded separately. The product's own has a path for many tokens too."""
