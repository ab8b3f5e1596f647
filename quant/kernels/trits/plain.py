"""Any CPU: the panel for one token and for many. 16 products of 2·128 at most meet in an int16 sum: 4096."""

from typing import Any

from quant.dotproduct import dot_wide_pairs
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.trits.panel import PANEL_BYTES, panel_tokens
from quant.lanes import repeat, sum_of_neighbours
from quant.registers import f32x16, i8x4, i8x64, i16x4, i16x64, i32x16, tile
from quant.simd import load, scratch, sign_extend, splat, zero_extend, zeros

SUMS_1, TOTALS_1 = tile(i32x16, 1), tile(f32x16, 1)


@helper
def tile_sums(kind: Any, panel: int, q: int, q_stride: int, start: Any) -> Any:
    """One token, whatever the kind."""
    narrow = zeros(i16x64)
    for u in range(16):
        x = repeat(i16x64, sign_extend(i16x4, load(i8x4, q + u * 4)))
        narrow = narrow + zero_extend(i16x64, load(i8x64, panel + u * 64)) * x
    return start + sum_of_neighbours(dot_wide_pairs(narrow, splat(i16x64, 1)))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    panel, num_tokens = scratch(PANEL_BYTES), argument(arguments, NUM_TOKENS)
    for pair in range(first, last):
        panel_tokens(tile_sums, SUMS_1, TOTALS_1, 1, arguments, panel, pair, 0, num_tokens)
