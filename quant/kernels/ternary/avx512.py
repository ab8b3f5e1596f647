"""AVX-512 without VNNI: the products of `avx2` in registers of 64 bytes. The bounds are the same."""

from typing import Any

from quant.dotproduct import dot_pairs, dot_wide_pairs
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, SUMS_PAIR, many_tokens, one_token
from quant.kernels.ternary.vnni import SUMS_4, SUMS_16, TOTALS_4, TOTALS_16
from quant.registers import i16x32, i32x16, tile
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

NARROW_PAIR = tile(i16x32, 2)


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    ones, fours = zeros(NARROW_PAIR), zeros(NARROW_PAIR)
    field, field_at_2 = splat(i32x16, 0x03030303), splat(i32x16, 0x0C0C0C0C)
    for t in range(4):
        v = load(SUMS_PAIR, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        prefetch(w + t * 128 + AHEAD + 64)
        x = q + t * 16
        ones = ones + dot_pairs(v & field, broadcast(i32x16, x))
        fours = fours + dot_pairs(v & field_at_2, broadcast(i32x16, x + 4))
        upper = shift_right(v, 4)
        ones = ones + dot_pairs(upper & field, broadcast(i32x16, x + 8))
        fours = fours + dot_pairs(upper & field_at_2, broadcast(i32x16, x + 12))
    narrow = ones + shift_right_signed(fours, 2)
    return dot_wide_pairs(narrow, splat(i16x32, 1)) + splat(i32x16, start)


@helper
def tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    """As many tokens as the kind has registers."""
    field, v = splat(i32x16, 0x03030303), load(i32x16, w)
    narrow = dot_pairs(v & field, broadcast_strided(kind, q, q_stride))
    for c in range(4, 16, 4):
        v = shift_right(v, 2)
        narrow = narrow + dot_pairs(v & field, broadcast_strided(kind, q + c, q_stride))
    for t in range(1, 4):
        v = load(i32x16, w + t * 128)
        for c in range(0, 16, 4):
            narrow = narrow + dot_pairs(v & field, broadcast_strided(kind, q + t * 16 + c, q_stride))
            v = shift_right(v, 2)
    return start + dot_wide_pairs(narrow, splat(i16x32, 1))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        token = many_tokens(tile_sums, SUMS_16, TOTALS_16, 16, arguments, pair, 0)
        token = many_tokens(tile_sums, SUMS_4, TOTALS_4, 4, arguments, pair, token)
        for alone in range(token, argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, alone)
