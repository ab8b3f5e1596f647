"""AVX2: patterns become fields by a look-up of bytes, and fields are multiplied as those of ternary tiles.

The bounds on int16 sums are those of `quant.kernels.ternary.avx2`.
"""

from typing import Any

from quant.dotproduct import dot_pairs, dot_wide_pairs, settle
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.sherry.decode import even_fields, odd_fields
from quant.kernels.sherry.panel import panel_tokens
from quant.kernels.sherry.product import one_token
from quant.lanes import join, pick
from quant.registers import i8x32, i16x16, i32x8, tile
from quant.simd import broadcast, load, shift_left, shift_right, shift_right_signed, splat, zeros

WORDS, NARROW = tile(i32x8, 2), tile(i16x16, 2)


@helper
def half_sums(w: int, signs: Any, x: int, start: int) -> Any:
    low, high = load(WORDS, w), load(WORDS, w + 128)
    ones, fours = zeros(NARROW), zeros(NARROW)
    ones, fours = _add(ones, fours, even_fields(i32x8, i8x32, low, shift_left(signs, 7)), x)
    ones, fours = _add(ones, fours, odd_fields(i32x8, i8x32, low, shift_left(signs, 6)), x + 16)
    ones, fours = _add(ones, fours, even_fields(i32x8, i8x32, high, shift_left(signs, 5)), x + 32)
    ones, fours = _add(ones, fours, odd_fields(i32x8, i8x32, high, shift_left(signs, 4)), x + 48)
    sums = dot_wide_pairs(ones + shift_right_signed(fours, 2), splat(i16x16, 1)) + splat(i32x8, start)
    return join(pick(sums, 0), pick(sums, 1))


@helper
def _add(ones: Any, fours: Any, fields: Any, x: int) -> Any:
    """Fields 0 and 2 go to one sum; 1 and 3 stay where they are, and their sum is four times as large."""
    field, field_at_2, upper = splat(i32x8, 0x03030303), splat(i32x8, 0x0C0C0C0C), shift_right(fields, 4)
    ones = settle(ones + dot_pairs(fields & field, broadcast(i32x8, x)))
    fours = settle(fours + dot_pairs(fields & field_at_2, broadcast(i32x8, x + 4)))
    ones = settle(ones + dot_pairs(upper & field, broadcast(i32x8, x + 8)))
    return ones, settle(fours + dot_pairs(upper & field_at_2, broadcast(i32x8, x + 12)))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    in_panels = panel_tokens(arguments, first, last)
    for pair in range(first, last):
        for token in range(in_panels, argument(arguments, NUM_TOKENS)):
            one_token(half_sums, WORDS, arguments, pair, token)
