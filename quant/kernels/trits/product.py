"""The product of 1.6-bit weights with int8 tokens, but for the integer sums, which each form brings along.

The float arithmetic is that of `quant.kernels.ternary.product`: blocks in order, three roundings for each.
"""

from typing import Any

from quant.jit import helper
from quant.kernels.arguments import (
    CODES,
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
from quant.kernels.ternary.product import PAIR_BYTES, SCALES_BYTES, scales_of
from quant.lanes import pick
from quant.registers import f32x16, i16x16, i32x16
from quant.simd import broadcast, half_to_float, load, store, to_float, zeros
from quant.trits import FIVE, FIVE_BYTES


@helper
def pair_at(arguments: int, pair: int) -> int:
    """Where a pair's codes are."""
    num_blocks = argument(arguments, NUM_BLOCKS)
    num_bytes = num_blocks // FIVE * FIVE_BYTES + num_blocks % FIVE * PAIR_BYTES
    return argument(arguments, CODES) + pair * num_bytes


@helper
def added(total: Any, sums: Any, block: int, s: int, d: int, starts: int) -> Any:
    """What 16 rows have summed up, with one more block; `sums` is Σ code · q."""
    scale = half_to_float(f32x16, load(i16x16, s + (block >> 1) * SCALES_BYTES))
    whole = to_float(f32x16, sums + broadcast(i32x16, starts + block * 4))
    return total + scale * broadcast(f32x16, d + block * 4) * whole


@helper
def one_token(five_sums: Any, pair_sums: Any, arguments: int, pair: int, token: int) -> None:
    """`five_sums(w, q)` gives Σ code · q of 16 rows over each of five blocks; `pair_sums` is for tiles."""
    w, s, num_blocks = pair_at(arguments, pair), scales_of(arguments, pair), argument(arguments, NUM_BLOCKS)
    q = argument(arguments, Q) + token * argument(arguments, Q_STRIDE)
    d = argument(arguments, D) + token * argument(arguments, D_STRIDE)
    starts = argument(arguments, STARTS) + token * argument(arguments, D_STRIDE)
    low, high = zeros(f32x16), zeros(f32x16)
    fives = num_blocks // FIVE
    for five in range(fives):
        block = five * FIVE
        # One loop for both halves: LLVM would write a loop of two out twice.
        for _ in range(2):
            s0, s1, s2, s3, s4 = five_sums(w, q + block * 64)
            low = added(low, s0, block, s, d, starts)
            low = added(low, s1, block + 1, s, d, starts)
            low = added(low, s2, block + 2, s, d, starts)
            low = added(low, s3, block + 3, s, d, starts)
            low = added(low, s4, block + 4, s, d, starts)
            low, high = high, low
            w, s = w + 64, s + 32
        w, s = w + FIVE_BYTES - 128, s - 64
    for block in range(fives * FIVE, num_blocks):
        sums = pair_sums(w, q + block * 64, 0)
        low = added(low, pick(sums, 0), block, s, d, starts)
        high = added(high, pick(sums, 1), block, s + 32, d, starts)
        w += PAIR_BYTES
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + pair * 128
    store(y, low)
    store(y + 64, high)
