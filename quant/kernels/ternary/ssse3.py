"""SSSE3: the products of `avx2` in registers of 16 bytes, for CPUs without AVX2. The bounds are the same."""

from typing import Any

from quant.dotproduct import dot_pairs, dot_wide_pairs, settle
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, many_tokens, one_token
from quant.lanes import join, pair_of, pick
from quant.registers import f32x16, i16x8, i32x4, i32x16, tile
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

CODES, NARROW = tile(i32x4, 4), tile(i16x8, 4)
TOKENS_4 = tile(i32x4, 4)
SUMS_4, TOTALS_4 = tile(i32x16, 4), tile(f32x16, 4)


@helper
def joined(sums: Any) -> Any:
    """The registers of a tile of four as one."""
    return join(join(pick(sums, 0), pick(sums, 1)), join(pick(sums, 2), pick(sums, 3)))


@helper
def block_sums(w: int, q: int, start: int) -> Any:
    """The sums of 16 rows over one block."""
    ones, fours = zeros(NARROW), zeros(NARROW)
    field, field_at_2 = splat(i32x4, 0x03030303), splat(i32x4, 0x0C0C0C0C)
    for t in range(4):
        v = load(CODES, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        x = q + t * 16
        ones = settle(ones + dot_pairs(v & field, broadcast(i32x4, x)))
        fours = settle(fours + dot_pairs(v & field_at_2, broadcast(i32x4, x + 4)))
        upper = shift_right(v, 4)
        ones = settle(ones + dot_pairs(upper & field, broadcast(i32x4, x + 8)))
        fours = settle(fours + dot_pairs(upper & field_at_2, broadcast(i32x4, x + 12)))
    narrow = ones + shift_right_signed(fours, 2)
    return joined(dot_wide_pairs(narrow, splat(i16x8, 1)) + splat(i32x4, start))


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums(w, q, start), block_sums(w + 64, q, start))


@helper
def eight_rows(w: int, q: int, q_stride: int) -> Any:
    """Σ code · q of eight rows over one block, for four tokens."""
    low, high = zeros(NARROW), zeros(NARROW)
    field = splat(i32x4, 0x03030303)
    for t in range(4):
        v_low, v_high = load(i32x4, w + t * 128), load(i32x4, w + t * 128 + 16)
        for c in range(0, 16, 4):
            x = broadcast_strided(TOKENS_4, q + t * 16 + c, q_stride)
            low = settle(low + dot_pairs(v_low & field, x))
            high = settle(high + dot_pairs(v_high & field, x))
            v_low, v_high = shift_right(v_low, 2), shift_right(v_high, 2)
    ones = splat(i16x8, 1)
    return join(dot_wide_pairs(low, ones), dot_wide_pairs(high, ones))


@helper
def tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    """Four tokens, whatever the kind."""
    return start + join(eight_rows(w, q, q_stride), eight_rows(w + 32, q, q_stride))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        token = many_tokens(tile_sums, SUMS_4, TOTALS_4, 4, arguments, pair, 0)
        for alone in range(token, argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, alone)
