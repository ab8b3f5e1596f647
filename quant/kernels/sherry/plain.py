"""Any CPU: vectors of int16 products, which LLVM makes of whatever the target has; bounds as in ternary's."""

from typing import Any

from quant.dotproduct import dot_wide_pairs
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.sherry.decode import even_fields, odd_fields
from quant.kernels.sherry.product import one_token
from quant.lanes import repeat, sum_of_neighbours
from quant.registers import i8x4, i8x64, i16x4, i16x64, i32x16
from quant.simd import bitcast, load, shift_left, shift_right, sign_extend, splat, zero_extend, zeros


@helper
def half_sums(w: int, signs: Any, x: int, start: int) -> Any:
    low, high = load(i32x16, w), load(i32x16, w + 128)
    narrow = _add(zeros(i16x64), even_fields(i32x16, i8x64, low, shift_left(signs, 7)), x)
    narrow = _add(narrow, odd_fields(i32x16, i8x64, low, shift_left(signs, 6)), x + 16)
    narrow = _add(narrow, even_fields(i32x16, i8x64, high, shift_left(signs, 5)), x + 32)
    narrow = _add(narrow, odd_fields(i32x16, i8x64, high, shift_left(signs, 4)), x + 48)
    return sum_of_neighbours(dot_wide_pairs(narrow, splat(i16x64, 1))) + splat(i32x16, start)


@helper
def _add(narrow: Any, fields: Any, x: int) -> Any:
    field = splat(i32x16, 0x03030303)
    for column in range(4):
        token = repeat(i16x64, sign_extend(i16x4, load(i8x4, x + 4 * column)))
        narrow = narrow + zero_extend(i16x64, bitcast(i8x64, fields & field)) * token
        fields = shift_right(fields, 2)
    return narrow


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        for token in range(argument(arguments, NUM_TOKENS)):
            one_token(half_sums, i32x16, arguments, pair, token)
