"""NEON with dot product: a register holds the codes of 4 rows and 16 inputs; one instruction multiplies 16 of
them with four inputs that stand in a lane of another register.

For one token, three of the four fields are masked where they stand and not shifted: times 4 and 16 they are
signed bytes still (48 at most), so each has a sum of its own, which is shifted once a block; exact, as it is
a multiple. The fourth would turn negative, and a shift costs no more than a mask.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, many_tokens, one_token
from quant.lanes import broadcast_lane, pair_of, repeat
from quant.neon import dot_four_signed
from quant.registers import f32x16, i8x64, i32x4, i32x16, tile
from quant.simd import (
    bitcast,
    load,
    load_strided,
    prefetch,
    shift_right,
    shift_right_signed,
    splat,
    zeros,
)

SUMS_4, TOTALS_4, TOKENS_4 = tile(i32x16, 4), tile(f32x16, 4), tile(i32x4, 4)


@helper
def block_sums(w: int, q: int, start: int) -> Any:
    """The sums of 16 rows over one block."""
    ones, fours, sixteens = splat(i32x16, start), zeros(i32x16), zeros(i32x16)
    for t in range(4):
        v, x = load(i8x64, w + t * 128), load(i32x4, q + t * 16)
        prefetch(w + t * 128 + AHEAD)
        ones = dot_four_signed(ones, bitcast(i32x16, v & splat(i8x64, 3)), four_inputs(x, 0))
        fours = dot_four_signed(fours, bitcast(i32x16, v & splat(i8x64, 12)), four_inputs(x, 1))
        sixteens = dot_four_signed(sixteens, bitcast(i32x16, v & splat(i8x64, 48)), four_inputs(x, 2))
        ones = dot_four_signed(ones, bitcast(i32x16, shift_right(v, 6)), four_inputs(x, 3))
    return ones + shift_right_signed(fours, 2) + shift_right_signed(sixteens, 4)


@helper
def four_inputs(x: Any, place: int) -> Any:
    return repeat(i32x16, broadcast_lane(x, place))


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums(w, q, start), block_sums(w + 64, q, start))


@helper
def tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    """Four tokens, whatever the kind; they share the masks and shifts."""
    sums, field = start, splat(i8x64, 3)
    for t in range(4):
        v, x = load(i8x64, w + t * 128), load_strided(TOKENS_4, q + t * 16, q_stride)
        u = bitcast(i32x16, v & field)
        sums = dot_four_signed(sums, u, repeat(i32x16, broadcast_lane(x, 0)))
        u = bitcast(i32x16, shift_right(v, 2) & field)
        sums = dot_four_signed(sums, u, repeat(i32x16, broadcast_lane(x, 1)))
        u = bitcast(i32x16, shift_right(v, 4) & field)
        sums = dot_four_signed(sums, u, repeat(i32x16, broadcast_lane(x, 2)))
        u = bitcast(i32x16, shift_right(v, 6))
        sums = dot_four_signed(sums, u, repeat(i32x16, broadcast_lane(x, 3)))
    return sums


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        token = many_tokens(tile_sums, SUMS_4, TOTALS_4, 4, arguments, pair, 0)
        for alone in range(token, argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, alone)
