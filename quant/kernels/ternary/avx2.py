"""AVX2: pairs of bytes are multiplied and added into int16 sums, which are widened once a block.

No int16 sum can overflow, whatever the bytes: a field holds 3 at most, and an activation is −128 at least,
so a pair gives 2·3·128 = 768 at most in size, and a block adds 16 pairs to a sum: 12288. Fields that stay
at bit 2 are 4 times as large, 3072 a pair, and 8 pairs meet in a sum: 24576.
"""

from typing import Any

from quant.dotproduct import dot_pairs, dot_wide_pairs, settle
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.panel import AT_ONCE, SUMS_4, TOKENS_4, TOTALS_4, panel_tokens
from quant.kernels.ternary.product import AHEAD, many_tokens, one_token
from quant.lanes import join, pair_of, pick
from quant.registers import i16x16, i32x8, tile
from quant.simd import (
    broadcast,
    broadcast_strided,
    load,
    prefetch,
    shift_right,
    shift_right_signed,
    splat,
    zeros,
)

CODES_PAIR, NARROW_PAIR = tile(i32x8, 4), tile(i16x16, 4)
NARROW_4 = tile(i16x16, 4)


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    ones, fours = zeros(NARROW_PAIR), zeros(NARROW_PAIR)
    field, field_at_2 = splat(i32x8, 0x03030303), splat(i32x8, 0x0C0C0C0C)
    for t in range(4):
        v = load(CODES_PAIR, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        prefetch(w + t * 128 + AHEAD + 64)
        x = q + t * 16
        ones = ones + dot_pairs(v & field, broadcast(i32x8, x))
        fours = fours + dot_pairs(v & field_at_2, broadcast(i32x8, x + 4))
        upper = shift_right(v, 4)
        ones = ones + dot_pairs(upper & field, broadcast(i32x8, x + 8))
        fours = fours + dot_pairs(upper & field_at_2, broadcast(i32x8, x + 12))
    narrow = ones + shift_right_signed(fours, 2)
    sums = dot_wide_pairs(narrow, splat(i16x16, 1)) + splat(i32x8, start)
    return pair_of(join(pick(sums, 0), pick(sums, 1)), join(pick(sums, 2), pick(sums, 3)))


@helper
def tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    """Four tokens, whatever the kind."""
    low, high = zeros(NARROW_4), zeros(NARROW_4)
    field = splat(i32x8, 0x03030303)
    for t in range(4):
        v_low, v_high = load(i32x8, w + t * 128), load(i32x8, w + t * 128 + 32)
        for c in range(0, 16, 4):
            x = broadcast_strided(TOKENS_4, q + t * 16 + c, q_stride)
            low = settle(low + dot_pairs(v_low & field, x))
            high = settle(high + dot_pairs(v_high & field, x))
            v_low, v_high = shift_right(v_low, 2), shift_right(v_high, 2)
    ones = splat(i16x16, 1)
    return start + join(dot_wide_pairs(low, ones), dot_wide_pairs(high, ones))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    in_panels = panel_tokens(arguments, first, last)
    for pair in range(first, last):
        token = many_tokens(tile_sums, SUMS_4, TOTALS_4, AT_ONCE, arguments, pair, in_panels)
        for alone in range(token, argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, alone)
