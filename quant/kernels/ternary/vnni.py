"""AVX-512 VNNI: a register holds the codes of 16 rows and 16 inputs; one instruction multiplies 64 of them.

For one token, fields are masked where they stand and not shifted: codes times 4, 16 and 64 are unsigned
bytes too (192 at most), so each field has a sum of its own, which is shifted once a block; exact, as it is
a multiple.
"""

from typing import Any

from quant.dotproduct import dot_four
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, SUMS_PAIR, many_tokens, one_token
from quant.registers import f32x16, i32x16, tile
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

SUMS_16, TOTALS_16 = tile(i32x16, 16), tile(f32x16, 16)
SUMS_4, TOTALS_4 = tile(i32x16, 4), tile(f32x16, 4)


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    ones, fours = splat(SUMS_PAIR, start), zeros(SUMS_PAIR)
    sixteens, sixty_fours = zeros(SUMS_PAIR), zeros(SUMS_PAIR)
    for t in range(4):
        v = load(SUMS_PAIR, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        prefetch(w + t * 128 + AHEAD + 64)
        x = q + t * 16
        ones = dot_four(ones, v & splat(i32x16, 0x03030303), broadcast(i32x16, x))
        fours = dot_four(fours, v & splat(i32x16, 0x0C0C0C0C), broadcast(i32x16, x + 4))
        sixteens = dot_four(sixteens, v & splat(i32x16, 0x30303030), broadcast(i32x16, x + 8))
        sixty_fours = dot_four(sixty_fours, v & splat(i32x16, 0xC0C0C0C0), broadcast(i32x16, x + 12))
    low = ones + shift_right_signed(fours, 2)
    return low + (shift_right_signed(sixteens, 4) + shift_right_signed(sixty_fours, 6))


@helper
def tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    """All tokens share the shifts, and there is no register for a sum of each field."""
    sums, field = start, splat(i32x16, 0x03030303)
    for t in range(4):
        v = load(i32x16, w + t * 128)
        x = q + t * 16
        sums = dot_four(sums, v & field, broadcast_strided(kind, x, q_stride))
        sums = dot_four(sums, shift_right(v, 2) & field, broadcast_strided(kind, x + 4, q_stride))
        sums = dot_four(sums, shift_right(v, 4) & field, broadcast_strided(kind, x + 8, q_stride))
        sums = dot_four(sums, shift_right(v, 6) & field, broadcast_strided(kind, x + 12, q_stride))
    return sums


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        token = many_tokens(tile_sums, SUMS_16, TOTALS_16, 16, arguments, pair, 0)
        token = many_tokens(tile_sums, SUMS_4, TOTALS_4, 4, arguments, pair, token)
        for alone in range(token, argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, alone)
