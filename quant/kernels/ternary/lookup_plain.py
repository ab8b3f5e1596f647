"""Codes by columns on a CPU that cannot look up bytes: products of int16, as in `plain`.

An input meets all 32 rows of a pair at once. A code is 2 at most and an input 128, so 64 of them fit: 16384.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, one_token
from quant.lanes import pair_of
from quant.registers import i8, i8x32, i16x32, i32x8, i32x16
from quant.simd import (
    bitcast,
    load,
    prefetch,
    shift_left,
    shift_right,
    shift_right_signed,
    splat,
    zero_extend,
    zeros,
)


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    narrow, field = zeros(i16x32), splat(i32x8, 0x03030303)
    for column in range(16):
        v, x = load(i32x8, w + column * 32), q + (column >> 2) * 16 + (column & 3)
        prefetch(w + column * 32 + AHEAD)
        for part in range(4):
            codes = zero_extend(i16x32, bitcast(i8x32, v & field))
            narrow = narrow + codes * splat(i16x32, load(i8, x + part * 4))
            v = shift_right(v, 2)
    by_row = bitcast(i32x16, narrow)
    even, odd = shift_right_signed(shift_left(by_row, 16), 16), shift_right_signed(by_row, 16)
    return pair_of(even + splat(i32x16, start), odd + splat(i32x16, start))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        for token in range(argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, token)
