"""AVX2, many tokens: codes are unpacked once for all of them, a byte each, into a panel that stays in the
first cache.

Masks and shifts share the ports of products and sums, so unpacking again for every four tokens costs 5 to 10
percent. A panel holds some blocks of a pair of row blocks; what a token has summed up so far waits in y, as
float32 and so with the same bits, until the next panel. The bounds on int16 sums are those of `avx2`.
"""

from typing import Any

from quant.dotproduct import dot_pairs, dot_wide_pairs, settle
from quant.jit import helper, kernel
from quant.kernels.arguments import (
    D_STRIDE,
    NUM_BLOCKS,
    NUM_TOKENS,
    Q_STRIDE,
    STARTS,
    Y_STRIDE,
    D,
    Q,
    Y,
    argument,
)
from quant.kernels.ternary.product import PAIR_BYTES, SCALES_BYTES, codes_of, scales_of
from quant.lanes import join
from quant.registers import f32x16, i16x16, i32x8, i32x16, tile
from quant.simd import (
    broadcast_strided,
    half_to_float,
    load,
    load_strided,
    scratch,
    shift_right,
    splat,
    store,
    store_strided,
    to_float,
    zeros,
)

PANEL_BLOCKS = 8
HALF_BYTES = PANEL_BLOCKS * 64 * 16  # of 16 rows
PANEL_BYTES = 2 * HALF_BYTES
AT_ONCE = 4  # tokens: with 16 registers there is no room for more
ENOUGH = 16  # tokens; a panel for fewer gains nothing

SUMS_4, TOTALS_4 = tile(i32x16, 4), tile(f32x16, 4)
TOKENS_4 = tile(i32x8, 4)


@helper
def unpack(panel: int, w: int, num_blocks: int) -> None:
    """Sixteen rows and then the other sixteen; in each, four inputs of all rows after the four before."""
    field = splat(i32x16, 0x03030303)
    for t in range(num_blocks * 4):
        for half in range(2):
            v, to = load(i32x16, w + t * 128 + half * 64), panel + half * HALF_BYTES + t * 256
            store(to, v & field)
            store(to + 64, shift_right(v, 2) & field)
            store(to + 128, shift_right(v, 4) & field)
            store(to + 192, shift_right(v, 6) & field)


@helper
def block_sums(panel: int, q: int, q_stride: int) -> Any:
    """Σ code · q of 16 rows over one block, for each token."""
    x = broadcast_strided(TOKENS_4, q, q_stride)
    low, high = settle(dot_pairs(load(i32x8, panel), x)), settle(dot_pairs(load(i32x8, panel + 32), x))
    for c in range(1, 16):
        x = broadcast_strided(TOKENS_4, q + c * 4, q_stride)
        low = settle(low + dot_pairs(load(i32x8, panel + c * 64), x))
        high = settle(high + dot_pairs(load(i32x8, panel + c * 64 + 32), x))
    ones = splat(i16x16, 1)
    return join(dot_wide_pairs(low, ones), dot_wide_pairs(high, ones))


@helper
def add_panel(
    arguments: int, panel: int, pair: int, half: int, first_block: int, num_blocks: int, token: int
) -> None:
    """Add a panel's part of the product to y, for 16 rows and four tokens."""
    q_stride, d_stride = argument(arguments, Q_STRIDE), argument(arguments, D_STRIDE)
    y_stride = argument(arguments, Y_STRIDE)
    q = argument(arguments, Q) + token * q_stride + first_block * 64
    d = argument(arguments, D) + token * d_stride + first_block * 4
    starts = argument(arguments, STARTS) + token * d_stride + first_block * 4
    s = scales_of(arguments, pair) + (first_block >> 1) * SCALES_BYTES + half * 32
    y = argument(arguments, Y) + token * y_stride + pair * 128 + half * 64
    total = zeros(TOTALS_4)
    if first_block > 0:
        total = load_strided(TOTALS_4, y, y_stride)
    for block in range(num_blocks):
        start = broadcast_strided(SUMS_4, starts + block * 4, d_stride)
        sums = start + block_sums(panel + half * HALF_BYTES + block * 1024, q + block * 64, q_stride)
        scale = half_to_float(f32x16, load(i16x16, s + (block >> 1) * SCALES_BYTES))
        d_of_tokens = broadcast_strided(TOTALS_4, d + block * 4, d_stride)
        total = total + scale * d_of_tokens * to_float(f32x16, sums)
    store_strided(y, total, y_stride)


@helper
def panel_pair(arguments: int, panel: int, pair: int, num_tokens: int) -> None:
    all_blocks = argument(arguments, NUM_BLOCKS)
    for first_block in range(0, all_blocks, PANEL_BLOCKS):
        num_blocks = min(PANEL_BLOCKS, all_blocks - first_block)
        unpack(panel, codes_of(arguments, pair) + first_block * PAIR_BYTES, num_blocks)
        # One loop for both halves: LLVM would write a loop of two out twice.
        for step in range(2 * (num_tokens // AT_ONCE)):
            add_panel(arguments, panel, pair, step & 1, first_block, num_blocks, (step >> 1) * AT_ONCE)


@kernel
def panel_tokens(arguments: int, first: int, last: int) -> int:
    """Tokens from the first on, while there are enough; gives the first that is left.

    All row blocks come before any other path, whose loops need each register that a call would take.
    """
    num_tokens = argument(arguments, NUM_TOKENS) // ENOUGH * ENOUGH
    if num_tokens > 0:
        panel = scratch(PANEL_BYTES)
        for pair in range(first, last):
            panel_pair(arguments, panel, pair, num_tokens)
    return num_tokens
