"""AVX-VNNI: the instruction of `vnni` in registers of 32 bytes, of which there are sixteen."""

from typing import Any

from quant.dotproduct import dot_four, settle
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, many_tokens, one_token
from quant.kernels.ternary.vnni import SUMS_4, TOTALS_4
from quant.lanes import join, pair_of, pick
from quant.registers import i32x8, tile
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

CODES_PAIR = tile(i32x8, 4)
TOKENS_4 = tile(i32x8, 4)


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    """Two sums for the four fields; four would need each register that there is."""
    ones, fours = splat(CODES_PAIR, start), zeros(CODES_PAIR)
    field, field_at_2 = splat(i32x8, 0x03030303), splat(i32x8, 0x0C0C0C0C)
    for t in range(4):
        v = load(CODES_PAIR, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        prefetch(w + t * 128 + AHEAD + 64)
        x = q + t * 16
        ones = settle(dot_four(ones, v & field, broadcast(i32x8, x)))
        fours = settle(dot_four(fours, v & field_at_2, broadcast(i32x8, x + 4)))
        upper = shift_right(v, 4)
        ones = settle(dot_four(ones, upper & field, broadcast(i32x8, x + 8)))
        fours = settle(dot_four(fours, upper & field_at_2, broadcast(i32x8, x + 12)))
    sums = ones + shift_right_signed(fours, 2)
    return pair_of(join(pick(sums, 0), pick(sums, 1)), join(pick(sums, 2), pick(sums, 3)))


@helper
def tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    """Four tokens, whatever the kind."""
    low, high = zeros(TOKENS_4), zeros(TOKENS_4)
    field = splat(i32x8, 0x03030303)
    for t in range(4):
        v_low, v_high = load(i32x8, w + t * 128), load(i32x8, w + t * 128 + 32)
        for c in range(0, 16, 4):
            x = broadcast_strided(TOKENS_4, q + t * 16 + c, q_stride)
            low, high = dot_four(low, v_low & field, x), dot_four(high, v_high & field, x)
            v_low, v_high = shift_right(v_low, 2), shift_right(v_high, 2)
    return start + join(low, high)


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        token = many_tokens(tile_sums, SUMS_4, TOTALS_4, 4, arguments, pair, 0)
        for alone in range(token, argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, alone)
