"""NEON with dot product: patterns become fields by a look-up of bytes, and fields are multiplied as those of
ternary tiles."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.sherry.decode import even_fields, odd_fields
from quant.kernels.sherry.product import one_token
from quant.kernels.ternary.neon_dot import four_inputs
from quant.neon import dot_four_signed
from quant.registers import i8x64, i32x4, i32x16
from quant.simd import bitcast, load, shift_left, shift_right, splat


@helper
def half_sums(w: int, signs: Any, x: int, start: int) -> Any:
    low, high = load(i32x16, w), load(i32x16, w + 128)
    sums = _add(splat(i32x16, start), even_fields(i32x16, i8x64, low, shift_left(signs, 7)), x)
    sums = _add(sums, odd_fields(i32x16, i8x64, low, shift_left(signs, 6)), x + 16)
    sums = _add(sums, even_fields(i32x16, i8x64, high, shift_left(signs, 5)), x + 32)
    return _add(sums, odd_fields(i32x16, i8x64, high, shift_left(signs, 4)), x + 48)


@helper
def _add(sums: Any, fields: Any, x: int) -> Any:
    v, inputs, field = bitcast(i8x64, fields), load(i32x4, x), splat(i8x64, 3)
    sums = dot_four_signed(sums, bitcast(i32x16, v & field), four_inputs(inputs, 0))
    sums = dot_four_signed(sums, bitcast(i32x16, shift_right(v, 2) & field), four_inputs(inputs, 1))
    sums = dot_four_signed(sums, bitcast(i32x16, shift_right(v, 4) & field), four_inputs(inputs, 2))
    return dot_four_signed(sums, bitcast(i32x16, shift_right(v, 6)), four_inputs(inputs, 3))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        for token in range(argument(arguments, NUM_TOKENS)):
            one_token(half_sums, i32x16, arguments, pair, token)
