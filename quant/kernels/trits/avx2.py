"""AVX2: digits are taken out one after another, and their products added as int16.

A digit is 2 at most, so a pair gives 2·2·128 = 512 at most in size, and 16 of them meet in a sum: 8192.
"""

from typing import Any

from quant.dotproduct import dot_pairs, dot_wide_pairs, settle
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary import avx2
from quant.kernels.ternary import panel as ternary_panel
from quant.kernels.ternary.product import AHEAD
from quant.kernels.trits.digits import digits, tripled
from quant.kernels.trits.panel import PANEL_BYTES, panel_tokens
from quant.kernels.trits.product import one_token
from quant.lanes import join, pick
from quant.registers import i8x32, i16x16, i32x8, tile
from quant.simd import bitcast, broadcast, load, prefetch, scratch, splat, zeros

CODES, NARROW = tile(i32x8, 2), tile(i16x16, 2)


@helper
def taken(total: Any, turned: Any, q: int) -> Any:
    """A sum with the products of one digit."""
    return settle(total + dot_pairs(digits(i8x32, turned), bitcast(i8x32, broadcast(i32x8, q))))


@helper
def widened(narrow: Any) -> Any:
    sums = dot_wide_pairs(narrow, splat(i16x16, 1))
    return join(pick(sums, 0), pick(sums, 1))


@helper
def five_sums(w: int, q: int) -> Any:
    a0, a1, a2, a3, a4 = zeros(NARROW), zeros(NARROW), zeros(NARROW), zeros(NARROW), zeros(NARROW)
    top = splat(i32x8, 0x80808080)
    for u in range(16):
        turned = bitcast(i8x32, load(CODES, w + u * 128) ^ top)
        prefetch(w + u * 128 + AHEAD)
        a0 = taken(a0, turned, q + u * 4)
        turned = tripled(turned)
        a1 = taken(a1, turned, q + u * 4 + 64)
        turned = tripled(turned)
        a2 = taken(a2, turned, q + u * 4 + 128)
        turned = tripled(turned)
        a3 = taken(a3, turned, q + u * 4 + 192)
        turned = tripled(turned)
        a4 = taken(a4, turned, q + u * 4 + 256)
    return widened(a0), widened(a1), widened(a2), widened(a3), widened(a4)


@helper
def tile_sums(kind: Any, panel: int, q: int, q_stride: int, start: Any) -> Any:
    """Four tokens, whatever the kind."""
    return start + ternary_panel.block_sums(panel, q, q_stride)


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    panel, num_tokens = scratch(PANEL_BYTES), argument(arguments, NUM_TOKENS)
    tiled = num_tokens // ternary_panel.AT_ONCE * ternary_panel.AT_ONCE
    sums_kind, totals_kind = ternary_panel.SUMS_4, ternary_panel.TOTALS_4
    for pair in range(first, last):
        if tiled > 0:
            panel_tokens(tile_sums, sums_kind, totals_kind, 4, arguments, panel, pair, 0, tiled)
        for token in range(tiled, num_tokens):
            one_token(five_sums, avx2.pair_sums, arguments, pair, token)
