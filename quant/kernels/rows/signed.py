"""Sums of 8-bit and 4-bit rows by instructions that multiply pairs of bytes, in registers of any size.

`codes` is the tile of registers that holds what is summed at once; `words`, `bytes_of` and `shorts` are one
register of its size in i32, i8 and i16. The bounds are those that `int8` and `int4` give for AVX2.
"""

from typing import Any

from quant.dotproduct import dot_pairs, dot_wide_pairs, with_sign_of
from quant.jit import helper
from quant.kernels.ternary.product import AHEAD
from quant.simd import absolute, bitcast, broadcast, broadcast_strided, load, prefetch, shift_right, splat


@helper
def int8_sums(codes: Any, words: Any, bytes_of: Any, shorts: Any, w: int, q: int) -> Any:
    """Σ weight · q over one block for the rows of a tile, whose next four inputs lie 128 bytes further."""
    ones = splat(shorts, 1)
    v = load(codes, w)
    sums = dot_wide_pairs(
        dot_pairs(absolute(v), with_sign_of(bitcast(bytes_of, broadcast(words, q)), v)), ones
    )
    for t in range(1, 16):
        v = load(codes, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        signed = with_sign_of(bitcast(bytes_of, broadcast(words, q + t * 4)), v)
        sums = sums + dot_wide_pairs(dot_pairs(absolute(v), signed), ones)
    return sums


@helper
def int8_tile(tokens: Any, bytes_of: Any, shorts: Any, w: int, q: int, q_stride: int) -> Any:
    """The same for one register of rows and as many tokens as the tile has registers."""
    ones, v = splat(shorts, 1), load(bytes_of, w)
    x = bitcast(bytes_of, broadcast_strided(tokens, q, q_stride))
    sums = dot_wide_pairs(dot_pairs(absolute(v), with_sign_of(x, v)), ones)
    for t in range(1, 16):
        v = load(bytes_of, w + t * 128)
        x = bitcast(bytes_of, broadcast_strided(tokens, q + t * 4, q_stride))
        sums = sums + dot_wide_pairs(dot_pairs(absolute(v), with_sign_of(x, v)), ones)
    return sums


@helper
def int4_sums(codes: Any, words: Any, shorts: Any, w: int, q: int) -> Any:
    """Σ code · q over one block for the rows of a tile, whose next eight inputs lie 128 bytes further."""
    ones, half, v = splat(shorts, 1), splat(words, 0x0F0F0F0F), load(codes, w)
    low = dot_pairs(v & half, broadcast(words, q))
    high = dot_pairs(shift_right(v, 4) & half, broadcast(words, q + 4))
    for t in range(1, 8):
        v = load(codes, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        low = low + dot_pairs(v & half, broadcast(words, q + t * 8))
        high = high + dot_pairs(shift_right(v, 4) & half, broadcast(words, q + t * 8 + 4))
    return dot_wide_pairs(low, ones) + dot_wide_pairs(high, ones)


@helper
def int4_tile(tokens: Any, words: Any, shorts: Any, w: int, q: int, q_stride: int) -> Any:
    """The same for one register of rows and as many tokens as the tile has registers."""
    ones, half, v = splat(shorts, 1), splat(words, 0x0F0F0F0F), load(words, w)
    low = dot_pairs(v & half, broadcast_strided(tokens, q, q_stride))
    high = dot_pairs(shift_right(v, 4) & half, broadcast_strided(tokens, q + 4, q_stride))
    for t in range(1, 8):
        v = load(words, w + t * 128)
        low = low + dot_pairs(v & half, broadcast_strided(tokens, q + t * 8, q_stride))
        high = high + dot_pairs(shift_right(v, 4) & half, broadcast_strided(tokens, q + t * 8 + 4, q_stride))
    return dot_wide_pairs(low, ones) + dot_wide_pairs(high, ones)
