"""NEON without dot product: as with it, but by products of bytes in int16 sums; bounds as in ternary's."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.sherry.decode import even_fields, odd_fields
from quant.kernels.sherry.product import one_token
from quant.kernels.ternary.neon import four_inputs
from quant.lanes import sum_of_neighbours
from quant.neon import add_pairs, products
from quant.registers import i8x64, i16x64, i32x4, i32x16, i32x32
from quant.simd import bitcast, load, shift_left, shift_right, splat, zeros


@helper
def half_sums(w: int, signs: Any, x: int, start: int) -> Any:
    low, high = load(i32x16, w), load(i32x16, w + 128)
    narrow = _add(zeros(i16x64), even_fields(i32x16, i8x64, low, shift_left(signs, 7)), x)
    narrow = _add(narrow, odd_fields(i32x16, i8x64, low, shift_left(signs, 6)), x + 16)
    narrow = _add(narrow, even_fields(i32x16, i8x64, high, shift_left(signs, 5)), x + 32)
    narrow = _add(narrow, odd_fields(i32x16, i8x64, high, shift_left(signs, 4)), x + 48)
    return sum_of_neighbours(add_pairs(zeros(i32x32), narrow)) + splat(i32x16, start)


@helper
def _add(narrow: Any, fields: Any, x: int) -> Any:
    v, inputs, field = bitcast(i8x64, fields), load(i32x4, x), splat(i8x64, 3)
    narrow = narrow + products(v & field, four_inputs(inputs, 0))
    narrow = narrow + products(shift_right(v, 2) & field, four_inputs(inputs, 1))
    narrow = narrow + products(shift_right(v, 4) & field, four_inputs(inputs, 2))
    return narrow + products(shift_right(v, 6), four_inputs(inputs, 3))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        for token in range(argument(arguments, NUM_TOKENS)):
            one_token(half_sums, i32x16, arguments, pair, token)
