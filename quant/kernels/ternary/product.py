"""The product of ternary tiles with int8 tokens, but for the integer sums, which each form brings along.

What is float is written here once, so that it has one order in every form: for each row, blocks of 64
inputs in order, total = total + (scale * d) * float(sum), three separate roundings. `first` and `last`
count pairs of row blocks; a pair is written whole, so y has room for rows padded to 32.
"""

from typing import Any

from quant.jit import helper
from quant.kernels.arguments import (
    CODES,
    D_STRIDE,
    NUM_BLOCKS,
    NUM_TOKENS,
    Q_STRIDE,
    SCALES,
    STARTS,
    Y_STRIDE,
    D,
    Q,
    Y,
    argument,
)
from quant.registers import f32x16, i16x16, i32, i32x16, tile
from quant.simd import (
    broadcast,
    broadcast_strided,
    half_to_float,
    load,
    store,
    store_strided,
    to_float,
    zeros,
)

PAIR_BYTES = 512  # codes of 32 rows and one block
SCALES_BYTES = 64  # scales of 32 rows and one group of two blocks
AHEAD = 4096  # how far before its use memory is asked for

SUMS_PAIR = tile(i32x16, 2)
TOTALS_PAIR = tile(f32x16, 2)
SCALES_PAIR = tile(i16x16, 2)


@helper
def scales_of(arguments: int, pair: int) -> int:
    return argument(arguments, SCALES) + pair * ((argument(arguments, NUM_BLOCKS) + 1) >> 1) * SCALES_BYTES


@helper
def codes_of(arguments: int, pair: int) -> int:
    return argument(arguments, CODES) + pair * argument(arguments, NUM_BLOCKS) * PAIR_BYTES


@helper
def one_token(pair_sums: Any, arguments: int, pair: int, token: int) -> None:
    """`pair_sums(w, q, start)` gives Σ (code − 1) · q of 32 rows over one block; start is −Σ q."""
    w, s, num_blocks = codes_of(arguments, pair), scales_of(arguments, pair), argument(arguments, NUM_BLOCKS)
    q = argument(arguments, Q) + token * argument(arguments, Q_STRIDE)
    d = argument(arguments, D) + token * argument(arguments, D_STRIDE)
    starts = argument(arguments, STARTS) + token * argument(arguments, D_STRIDE)
    total = zeros(TOTALS_PAIR)
    for block in range(num_blocks):
        sums = pair_sums(w + block * PAIR_BYTES, q + block * 64, load(i32, starts + block * 4))
        scale = half_to_float(f32x16, load(SCALES_PAIR, s + (block >> 1) * SCALES_BYTES))
        total = total + scale * broadcast(f32x16, d + block * 4) * to_float(f32x16, sums)
    store(argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + pair * 128, total)


@helper
def many_tokens(
    tile_sums: Any, sums_kind: Any, totals_kind: Any, at_once: int, arguments: int, pair: int, token: int
) -> int:
    """Tokens from `token` on, in tiles, while there are enough; gives the first that is left.

    `tile_sums(kind, w, q, q_stride, start)` adds the sums of 16 rows over one block to `start`, a tile with a
    register for each token; the kinds have as many registers as there are tokens at once.
    """
    num_blocks, q_stride = argument(arguments, NUM_BLOCKS), argument(arguments, Q_STRIDE)
    d_stride, y_stride = argument(arguments, D_STRIDE), argument(arguments, Y_STRIDE)
    num_tiles = (argument(arguments, NUM_TOKENS) - token) // at_once
    # One loop for both blocks of a pair: LLVM would write a loop of two out twice.
    for step in range(2 * num_tiles):
        half, here = step & 1, token + (step >> 1) * at_once
        w, s = codes_of(arguments, pair) + half * 64, scales_of(arguments, pair) + half * 32
        q = argument(arguments, Q) + here * q_stride
        d = argument(arguments, D) + here * d_stride
        starts = argument(arguments, STARTS) + here * d_stride
        total = zeros(totals_kind)
        for block in range(num_blocks):
            start = broadcast_strided(sums_kind, starts + block * 4, d_stride)
            sums = tile_sums(sums_kind, w + block * PAIR_BYTES, q + block * 64, q_stride, start)
            scale = half_to_float(f32x16, load(i16x16, s + (block >> 1) * SCALES_BYTES))
            d_of_tokens = broadcast_strided(totals_kind, d + block * 4, d_stride)
            total = total + scale * d_of_tokens * to_float(f32x16, sums)
        store_strided(argument(arguments, Y) + here * y_stride + pair * 128 + half * 64, total, y_stride)
    return token + num_tiles * at_once
