"""Many tokens, or any CPU: weights are unpacked once for all tokens, a byte each, into a panel of five blocks
that stays in the first cache.

What a token has summed up so far waits in y, as float32 and so with the same bits, until the next panel.
"""

from typing import Any

from quant.jit import helper
from quant.kernels.arguments import (
    D_STRIDE,
    NUM_BLOCKS,
    Q_STRIDE,
    STARTS,
    Y_STRIDE,
    D,
    Q,
    Y,
    argument,
)
from quant.kernels.ternary.product import AHEAD, SCALES_BYTES, scales_of
from quant.kernels.trits.digits import digits, tripled
from quant.kernels.trits.product import pair_at
from quant.registers import f32x16, i8x64, i16x16, i32x16
from quant.simd import (
    bitcast,
    broadcast_strided,
    half_to_float,
    load,
    load_strided,
    prefetch,
    shift_right,
    splat,
    store,
    store_strided,
    to_float,
    zeros,
)
from quant.trits import FIVE, FIVE_BYTES

BLOCK_PANEL = 1024  # of 16 rows
HALF_BYTES = FIVE * BLOCK_PANEL
PANEL_BYTES = 2 * HALF_BYTES


@helper
def unpack_five(panel: int, w: int) -> None:
    """Five blocks of 32 rows: for each half and block, four inputs of 16 rows after the four before."""
    top = splat(i32x16, 0x80808080)
    for tile in range(32):
        to = panel + (tile & 1) * HALF_BYTES + (tile >> 1) * 64
        prefetch(w + tile * 64 + AHEAD)
        turned = bitcast(i8x64, load(i32x16, w + tile * 64) ^ top)
        for k in range(FIVE):
            store(to + k * BLOCK_PANEL, digits(i8x64, turned))
            turned = tripled(turned)


@helper
def unpack_rest(panel: int, w: int, num_blocks: int) -> None:
    """The same for a few blocks of 2-bit tiles."""
    field = splat(i32x16, 0x03030303)
    for tile in range(num_blocks * 8):
        v, to = load(i32x16, w + tile * 64), panel + (tile & 1) * HALF_BYTES + (tile >> 1) * 256
        for c in range(4):
            store(to + c * 64, v & field)
            v = shift_right(v, 2)


@helper
def panel_tokens(
    tile_sums: Any,
    sums_kind: Any,
    totals_kind: Any,
    at_once: int,
    arguments: int,
    panel: int,
    pair: int,
    token: int,
    end: int,
) -> None:
    """Whole tiles of tokens from `token` to `end`.

    `tile_sums(kind, panel, q, q_stride, start)` adds Σ code · q of 16 rows over one block to `start`, a tile
    with a register for each token.
    """
    num_blocks = argument(arguments, NUM_BLOCKS)
    w = pair_at(arguments, pair)
    for block in range(0, num_blocks, FIVE):
        count = min(FIVE, num_blocks - block)
        if count == FIVE:
            unpack_five(panel, w)
        else:
            unpack_rest(panel, w, count)
        w += FIVE_BYTES
        # One loop for both halves: LLVM would write a loop of two out twice.
        for step in range(2 * ((end - token) // at_once)):
            _add_blocks(
                tile_sums,
                sums_kind,
                totals_kind,
                arguments,
                panel,
                pair,
                step & 1,
                block,
                count,
                token + (step >> 1) * at_once,
            )


@helper
def _add_blocks(
    tile_sums: Any,
    sums_kind: Any,
    totals_kind: Any,
    arguments: int,
    panel: int,
    pair: int,
    half: int,
    first: int,
    count: int,
    token: int,
) -> None:
    """Add some blocks' part of the product to y, for 16 rows and a tile of tokens."""
    q_stride, d_stride = argument(arguments, Q_STRIDE), argument(arguments, D_STRIDE)
    y_stride = argument(arguments, Y_STRIDE)
    q = argument(arguments, Q) + token * q_stride
    d = argument(arguments, D) + token * d_stride
    starts = argument(arguments, STARTS) + token * d_stride
    s = scales_of(arguments, pair) + half * 32
    y = argument(arguments, Y) + token * y_stride + pair * 128 + half * 64
    total = zeros(totals_kind)
    if first > 0:
        total = load_strided(totals_kind, y, y_stride)
    at = panel + half * HALF_BYTES
    for block in range(first, first + count):
        start = broadcast_strided(sums_kind, starts + block * 4, d_stride)
        sums = tile_sums(sums_kind, at, q + block * 64, q_stride, start)
        scale = half_to_float(f32x16, load(i16x16, s + (block >> 1) * SCALES_BYTES))
        d_of_tokens = broadcast_strided(totals_kind, d + block * 4, d_stride)
        total = total + scale * d_of_tokens * to_float(f32x16, sums)
        at += BLOCK_PANEL
    store_strided(y, total, y_stride)
