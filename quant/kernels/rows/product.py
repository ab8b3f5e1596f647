"""The head's product, but for the integer sums, which each width and form brings along.

What is float is written here once, so that it has one order in every form: for each row, blocks of 64
inputs in order, total = total + d * float(sum); then y = scale * total; every operation is a rounding of
its own. `pair_bytes` is the size of 32 rows over one block.
"""

from typing import Any

from quant.jit import helper
from quant.kernels.arguments import (
    CODES,
    D_STRIDE,
    IDS,
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
from quant.registers import f32, f32x16, i32, i32x16, i64, tile
from quant.simd import (
    broadcast,
    broadcast_strided,
    load,
    put,
    scratch,
    store,
    store_strided,
    to_float,
    zeros,
)

SCALES_BYTES = 128  # scales of 32 rows
TOTALS_PAIR = tile(f32x16, 2)
SUMS_4, TOTALS_4 = tile(i32x16, 4), tile(f32x16, 4)


@helper
def one_token(pair_sums: Any, pair_bytes: int, arguments: int, pair: int, token: int) -> Any:
    """The product of 32 rows with one token. `pair_sums(w, q, start)` is Σ weight · q; start is −Σ q."""
    num_blocks = argument(arguments, NUM_BLOCKS)
    w = argument(arguments, CODES) + pair * num_blocks * pair_bytes
    q = argument(arguments, Q) + token * argument(arguments, Q_STRIDE)
    d = argument(arguments, D) + token * argument(arguments, D_STRIDE)
    starts = argument(arguments, STARTS) + token * argument(arguments, D_STRIDE)
    total = zeros(TOTALS_PAIR)
    for block in range(num_blocks):
        sums = pair_sums(w + block * pair_bytes, q + block * 64, load(i32, starts + block * 4))
        total = total + broadcast(f32x16, d + block * 4) * to_float(f32x16, sums)
    return load(TOTALS_PAIR, argument(arguments, SCALES) + pair * SCALES_BYTES) * total


@helper
def fours(tile_sums: Any, pair_bytes: int, arguments: int, pair: int) -> int:
    """The same for tokens in fours while there are enough; gives the first that is left.

    `tile_sums(kind, w, q, q_stride, start)` gives the sums of 16 rows over one block for each token; start
    is a tile of −Σ q.
    """
    num_blocks, q_stride = argument(arguments, NUM_BLOCKS), argument(arguments, Q_STRIDE)
    d_stride, y_stride = argument(arguments, D_STRIDE), argument(arguments, Y_STRIDE)
    num_tiles = argument(arguments, NUM_TOKENS) >> 2
    # One loop for both blocks of a pair: LLVM would write a loop of two out twice.
    for step in range(2 * num_tiles):
        half, here = step & 1, (step >> 1) * 4
        w = argument(arguments, CODES) + pair * num_blocks * pair_bytes + half * 64
        q = argument(arguments, Q) + here * q_stride
        d = argument(arguments, D) + here * d_stride
        starts = argument(arguments, STARTS) + here * d_stride
        total = zeros(TOTALS_4)
        for block in range(num_blocks):
            start = broadcast_strided(SUMS_4, starts + block * 4, d_stride)
            sums = tile_sums(SUMS_4, w + block * pair_bytes, q + block * 64, q_stride, start)
            total = total + broadcast_strided(TOTALS_4, d + block * 4, d_stride) * to_float(f32x16, sums)
        scale = load(f32x16, argument(arguments, SCALES) + pair * SCALES_BYTES + half * 64)
        y = argument(arguments, Y) + here * y_stride + pair * 128 + half * 64
        store_strided(y, scale * total, y_stride)
    return num_tiles * 4


@helper
def matmul(pair_sums: Any, tile_sums: Any, pair_bytes: int, arguments: int, first: int, last: int) -> None:
    """Pairs of row blocks from `first` to `last`; tokens in fours, then one by one."""
    for pair in range(first, last):
        for token in range(fours(tile_sums, pair_bytes, arguments, pair), argument(arguments, NUM_TOKENS)):
            y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + pair * 128
            store(y, one_token(pair_sums, pair_bytes, arguments, pair, token))


@helper
def one_by_one(pair_sums: Any, pair_bytes: int, arguments: int, first: int, last: int) -> None:
    """As `matmul`, for a form that has nothing for several tokens."""
    for pair in range(first, last):
        for token in range(argument(arguments, NUM_TOKENS)):
            y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + pair * 128
            store(y, one_token(pair_sums, pair_bytes, arguments, pair, token))


@helper
def selected(pair_sums: Any, pair_bytes: int, arguments: int, first: int, last: int) -> None:
    """The first token times listed rows, from `first` to `last` of the list: y[i] is row ids[i]'s.

    A row's bytes lie in the same cache lines as its neighbours', so its whole pair is computed, once for
    equal pairs in a row: sorted ids are faster.
    """
    found, held = scratch(128), -1
    for i in range(first, last):
        row = load(i64, argument(arguments, IDS) + i * 8)
        pair = row >> 5
        if pair != held:
            store(found, one_token(pair_sums, pair_bytes, arguments, pair, 0))
            held = pair
        put(f32, argument(arguments, Y) + i * 4, load(f32, found + (row & 31) * 4))
