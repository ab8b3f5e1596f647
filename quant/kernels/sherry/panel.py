"""AVX2, many tokens: patterns are decoded once for all of them, into the panel of the ternary kernel.

A panel has a byte for each weight and inputs in their order, so that tokens need no turning; what goes on
from there is `quant.kernels.ternary.panel`.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_BLOCKS, NUM_TOKENS, argument
from quant.kernels.sherry.decode import BLOCK_BYTES, even_fields, odd_fields, signs_of
from quant.kernels.sherry.product import sherry_codes_of
from quant.kernels.ternary.panel import AT_ONCE, ENOUGH, HALF_BYTES, PANEL_BLOCKS, PANEL_BYTES, add_panel
from quant.registers import i8x64, i32x16
from quant.simd import load, scratch, shift_left, shift_right, splat, store


@helper
def unpack(panel: int, w: int, num_blocks: int) -> None:
    """Sixteen rows and then the other sixteen; in each, four inputs of all rows after the four before."""
    for block in range(num_blocks):
        for half in range(2):
            here, to = w + block * BLOCK_BYTES + half * 64, panel + half * HALF_BYTES + block * 1024
            signs = signs_of(i32x16, w + block * BLOCK_BYTES, half)
            low, high = load(i32x16, here), load(i32x16, here + 128)
            _put(to, even_fields(i32x16, i8x64, low, shift_left(signs, 7)))
            _put(to + 256, odd_fields(i32x16, i8x64, low, shift_left(signs, 6)))
            _put(to + 512, even_fields(i32x16, i8x64, high, shift_left(signs, 5)))
            _put(to + 768, odd_fields(i32x16, i8x64, high, shift_left(signs, 4)))


@helper
def _put(to: int, fields: Any) -> None:
    """A byte of fields becomes four: its copies, each 6 bits further, have field c at the foot of byte c."""
    byte = splat(i32x16, 0xFF)
    store(to, _spread(fields & byte))
    store(to + 64, _spread(shift_right(fields, 8) & byte))
    store(to + 128, _spread(shift_right(fields, 16) & byte))
    store(to + 192, _spread(shift_right(fields, 24)))


@helper
def _spread(fields: Any) -> Any:
    two = fields | shift_left(fields, 6)
    return (two | shift_left(two, 12)) & splat(i32x16, 0x03030303)


@helper
def panel_pair(arguments: int, panel: int, pair: int, num_tokens: int) -> None:
    all_blocks = argument(arguments, NUM_BLOCKS)
    for first_block in range(0, all_blocks, PANEL_BLOCKS):
        num_blocks = min(PANEL_BLOCKS, all_blocks - first_block)
        unpack(panel, sherry_codes_of(arguments, pair) + first_block * BLOCK_BYTES, num_blocks)
        for step in range(2 * (num_tokens // AT_ONCE)):
            add_panel(arguments, panel, pair, step & 1, first_block, num_blocks, (step >> 1) * AT_ONCE)


@kernel
def panel_tokens(arguments: int, first: int, last: int) -> int:
    """Tokens from the first on, while there are enough; gives the first that is left."""
    num_tokens = argument(arguments, NUM_TOKENS) // ENOUGH * ENOUGH
    if num_tokens > 0:
        panel = scratch(PANEL_BYTES)
        for pair in range(first, last):
            panel_pair(arguments, panel, pair, num_tokens)
    return num_tokens
