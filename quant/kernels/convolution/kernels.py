"""The short convolution on registers. The reference says what it is."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.convolution.places import (
    LARGEST_TAPS,
    NUM_CHANNELS,
    NUM_TAPS,
    NUM_TOKENS,
    TAIL,
    WEIGHT,
    X_STRIDE,
    Y_STRIDE,
    X,
    Y,
)
from quant.kernels.elementary.functions import silu
from quant.registers import f32x16, i64
from quant.simd import load, load_first, put, scratch, store, store_first

ROWS_BYTES = 8 * LARGEST_TAPS
AT_ONCE = 32  # blocks whose taps, inputs and tail stay in the nearest cache


@helper
def row_at(arguments: int, place: int) -> int:
    """Address of a row of the tail with the tokens behind it; the tail's first row has the place 0."""
    tail_rows = argument(arguments, NUM_TAPS) - 1
    if place < tail_rows:
        return argument(arguments, TAIL) + place * argument(arguments, NUM_CHANNELS) * 4
    return argument(arguments, X) + (place - tail_rows) * argument(arguments, X_STRIDE)


@helper
def some(address: int, left: int) -> Any:
    if left >= 16:
        return load(f32x16, address)
    return load_first(f32x16, address, left)


@helper
def put_some(address: int, values: Any, left: int) -> None:
    if left >= 16:
        store(address, values)
    else:
        store_first(address, values, left)


@helper
def convolved(arguments: int, rows: int, at: int, left: int) -> Any:
    """Sixteen channels of a token, or as many as are left; `rows` names the token's row and those before."""
    last_tap, width = argument(arguments, NUM_TAPS) - 1, argument(arguments, NUM_CHANNELS) * 4
    w = argument(arguments, WEIGHT) + at
    total = some(load(i64, rows + last_tap * 8) + at, left) * some(w + last_tap * width, left)
    for tap in range(last_tap - 1, -1, -1):
        total = total + some(load(i64, rows + tap * 8) + at, left) * some(w + tap * width, left)
    return silu(total)


@helper
def move_tail(arguments: int, first: int, last: int) -> None:
    """The last inputs become the tail. A row comes from further on, so none is lost before it is read."""
    num_channels, num_tokens = argument(arguments, NUM_CHANNELS), argument(arguments, NUM_TOKENS)
    for place in range(argument(arguments, NUM_TAPS) - 1):
        source, target = row_at(arguments, num_tokens + place), row_at(arguments, place)
        for block in range(first, last):
            left = num_channels - block * 16
            put_some(target + block * 64, some(source + block * 64, left), left)


@helper
def some_blocks(arguments: int, rows: int, first: int, last: int) -> None:
    num_channels = argument(arguments, NUM_CHANNELS)
    whole = min(last, num_channels >> 4)
    for token in range(argument(arguments, NUM_TOKENS)):
        for tap in range(argument(arguments, NUM_TAPS)):
            put(i64, rows + tap * 8, row_at(arguments, token + tap))
        y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE)
        for block in range(first, whole):
            store(y + block * 64, convolved(arguments, rows, block * 64, 16))
        for block in range(max(first, whole), last):
            left = num_channels - block * 16
            store_first(y + block * 64, convolved(arguments, rows, block * 64, left), left)
    move_tail(arguments, first, last)


@kernel
def short_convolution(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count blocks of 16 channels."""
    rows = scratch(ROWS_BYTES)
    for start in range(first, last, AT_ONCE):
        some_blocks(arguments, rows, start, min(start + AT_ONCE, last))
