"""Dense products on registers. The reference says what they are."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.dense.places import (
    BIAS,
    NUM_INPUTS,
    NUM_ROWS,
    NUM_TOKENS,
    ROWS,
    WEIGHT,
    WEIGHT_STRIDE,
    X_STRIDE,
    Y_STRIDE,
    X,
    Y,
)
from quant.kernels.elementary.constants import NAN_BITS
from quant.lanes import add_lanes, pick
from quant.registers import f32, f32x16, i32, tile
from quant.simd import load, load_first, load_strided, put, zeros

TWO, FOUR = tile(f32x16, 2), tile(f32x16, 4)


@helper
def finish(sums: Any, arguments: int, row: int, token: int) -> None:
    """The inputs behind the last whole register, the sum over the lanes, the bias."""
    count = argument(arguments, NUM_INPUTS)
    whole = count & -16
    if whole < count:
        w = argument(arguments, WEIGHT) + row * argument(arguments, WEIGHT_STRIDE) + whole * 4
        x = argument(arguments, X) + token * argument(arguments, X_STRIDE) + whole * 4
        sums = sums + load_first(f32x16, x, count - whole) * load_first(f32x16, w, count - whole)
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + row * 4
    total, bias = add_lanes(sums), argument(arguments, BIAS)
    if bias != 0:
        total = total + load(f32, bias + row * 4)
    if total == total:
        put(f32, y, total)
    else:
        put(i32, y, NAN_BITS)


@helper
def two_tokens(arguments: int, row: int, token: int) -> None:
    """Two rows times two tokens: as many sums as sixteen registers of eight lanes hold beside the inputs."""
    stride, x_stride = argument(arguments, WEIGHT_STRIDE), argument(arguments, X_STRIDE)
    w = argument(arguments, WEIGHT) + row * stride
    x = argument(arguments, X) + token * x_stride
    first, second = zeros(TWO), zeros(TWO)
    for at in range(0, (argument(arguments, NUM_INPUTS) & -16) * 4, 64):
        rows = load_strided(TWO, w + at, stride)
        first = first + rows * load(f32x16, x + at)
        second = second + rows * load(f32x16, x + x_stride + at)
    finish(pick(first, 0), arguments, row, token)
    finish(pick(first, 1), arguments, row + 1, token)
    finish(pick(second, 0), arguments, row, token + 1)
    finish(pick(second, 1), arguments, row + 1, token + 1)


@helper
def one_token(arguments: int, row: int, token: int) -> None:
    """Four rows times one token."""
    stride = argument(arguments, WEIGHT_STRIDE)
    w = argument(arguments, WEIGHT) + row * stride
    x = argument(arguments, X) + token * argument(arguments, X_STRIDE)
    sums = zeros(FOUR)
    for at in range(0, (argument(arguments, NUM_INPUTS) & -16) * 4, 64):
        sums = sums + load_strided(FOUR, w + at, stride) * load(f32x16, x + at)
    finish(pick(sums, 0), arguments, row, token)
    finish(pick(sums, 1), arguments, row + 1, token)
    finish(pick(sums, 2), arguments, row + 2, token)
    finish(pick(sums, 3), arguments, row + 3, token)


@helper
def one_row(arguments: int, row: int, token: int) -> None:
    w = argument(arguments, WEIGHT) + row * argument(arguments, WEIGHT_STRIDE)
    x = argument(arguments, X) + token * argument(arguments, X_STRIDE)
    sums = zeros(f32x16)
    for at in range(0, (argument(arguments, NUM_INPUTS) & -16) * 4, 64):
        sums = sums + load(f32x16, w + at) * load(f32x16, x + at)
    finish(sums, arguments, row, token)


@kernel
def dense(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count fours of rows."""
    num_rows, num_tokens = argument(arguments, NUM_ROWS), argument(arguments, NUM_TOKENS)
    whole_rows, pairs = num_rows & -ROWS, num_tokens & -2
    for row in range(first * ROWS, min(last * ROWS, whole_rows), ROWS):
        for token in range(0, pairs, 2):
            two_tokens(arguments, row, token)
            two_tokens(arguments, row + 2, token)
        for token in range(pairs, num_tokens):
            one_token(arguments, row, token)
    for row in range(max(first * ROWS, whole_rows), min(last * ROWS, num_rows)):
        for token in range(num_tokens):
            one_row(arguments, row, token)
