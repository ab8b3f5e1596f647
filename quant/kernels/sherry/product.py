"""One token's product with Sherry tiles, but for the integer sums, which each form brings along.

All that is float is as in `quant.kernels.ternary.product`: the results are those of any ternary matrix.
"""

from typing import Any

from quant.jit import helper
from quant.kernels.arguments import CODES, D_STRIDE, NUM_BLOCKS, Q_STRIDE, STARTS, Y_STRIDE, D, Q, Y, argument
from quant.kernels.sherry.decode import BLOCK_BYTES, signs_of, turn
from quant.kernels.ternary.product import SCALES_BYTES, SCALES_PAIR, TOTALS_PAIR, scales_of
from quant.lanes import pair_of
from quant.registers import f32x16, i32
from quant.simd import broadcast, half_to_float, load, prefetch, scratch, store, to_float, zeros

AHEAD = 10 * BLOCK_BYTES  # how far before its use memory is asked for


@helper
def sherry_codes_of(arguments: int, pair: int) -> int:
    return argument(arguments, CODES) + pair * argument(arguments, NUM_BLOCKS) * BLOCK_BYTES


@helper
def one_token(half_sums: Any, words: Any, arguments: int, pair: int, token: int) -> None:
    """`half_sums(w, signs, x, start)` gives Σ (code − 1) · q of 16 rows over one block; start is −Σ q.

    `words` are 64 bytes as the form holds them.
    """
    w, s = sherry_codes_of(arguments, pair), scales_of(arguments, pair)
    q = argument(arguments, Q) + token * argument(arguments, Q_STRIDE)
    d = argument(arguments, D) + token * argument(arguments, D_STRIDE)
    starts = argument(arguments, STARTS) + token * argument(arguments, D_STRIDE)
    x = scratch(64)
    total = zeros(TOTALS_PAIR)
    for block in range(argument(arguments, NUM_BLOCKS)):
        here, start = w + block * BLOCK_BYTES, load(i32, starts + block * 4)
        for line in range(5):
            prefetch(here + AHEAD + line * 64)
        turn(x, q + block * 64)
        low = half_sums(here, signs_of(words, here, 0), x, start)
        high = half_sums(here + 64, signs_of(words, here, 1), x, start)
        scale = half_to_float(f32x16, load(SCALES_PAIR, s + (block >> 1) * SCALES_BYTES))
        total = total + scale * broadcast(f32x16, d + block * 4) * to_float(f32x16, pair_of(low, high))
    store(argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + pair * 128, total)
