"""Sums by tables: half a byte is two weights, and so a place in a table of what two inputs can give.

An input is l + 16·h with l in −8 … 7 and h in −8 … 8, and l and h have tables of their own, so that sums
stay bytes: a pair gives 16 at most in size, and six meet in a byte, 96. A sum of bytes is widened to int16
by parity: with columns as `quant.columns` lays them out, even bytes are the first 16 rows of a pair.
Over a block, l gives 512 at most and 16·h 8192.

Tables are made anew by each thread for some blocks at a time, so that they stay in the first cache; what a
token has summed up so far waits in y, as float32 and so with the same bits.
"""

from typing import Any

from quant.dotproduct import with_sign_of
from quant.jit import helper, kernel
from quant.kernels.arguments import (
    D_STRIDE,
    NUM_BLOCKS,
    NUM_TOKENS,
    Q_STRIDE,
    Y_STRIDE,
    D,
    Q,
    Y,
    argument,
)
from quant.kernels.ternary.product import AHEAD, PAIR_BYTES, SCALES_BYTES, codes_of, scales_of
from quant.lanes import repeat
from quant.registers import (
    f32x16,
    i8x16,
    i8x32,
    i8x64,
    i16x16,
    i16x64,
    i32,
    i32x4,
    i32x8,
    i32x16,
)
from quant.simd import (
    bitcast,
    broadcast,
    half_to_float,
    load,
    prefetch,
    put,
    scratch,
    shift_left,
    shift_right,
    shift_right_signed,
    sign_extend,
    splat,
    store,
    to_float,
    truncate,
    zeros,
)
from quant.tables import look_up

PANEL_BLOCKS = 8
BLOCK_TABLES = 16 * 64  # for each byte of a row: low half l, low half h, high half l, high half h
TABLES_BYTES = PANEL_BLOCKS * BLOCK_TABLES


@helper
def split(parts: int, q: int) -> None:
    """A block's inputs as l, and 64 bytes further as h."""
    x = sign_extend(i16x64, load(i8x64, q))
    low = ((x + splat(i16x64, 8)) & splat(i16x64, 15)) - splat(i16x64, 8)
    store(parts, truncate(i8x64, low))
    store(parts + 64, truncate(i8x64, shift_right_signed(x - low, 4)))


@helper
def make_tables(tables: int, parts: int, second: Any, q: int) -> None:
    """The tables of one block. `second` holds the second weight of each place in a table."""
    first = bitcast(i8x16, splat(i32x4, 0x000100FF))
    split(parts, q)
    for byte in range(16):
        for half in range(2):
            # Byte c of tile t holds inputs 16t + c, 4 + c in its low half, 8 + c, 12 + c in its high half.
            x = parts + (byte >> 2) * 16 + (byte & 3) + half * 8
            for part in range(2):
                a = with_sign_of(broadcast(i8x16, x + part * 64), first)
                b = with_sign_of(broadcast(i8x16, x + part * 64 + 4), second)
                store(tables + byte * 64 + half * 32 + part * 16, a + b)


@helper
def seconds(at: int) -> Any:
    """−1, 0, 1 and nothing, four bytes each; by memory, as a register is filled with one number at a time."""
    for place in range(3):
        put(i32, at + place * 4, (place - 1) * 0x01010101)
    put(i32, at + 12, 0)
    return load(i8x16, at)


@helper
def found(tables: int, v: Any, low: Any, high: Any) -> Any:
    """Sums of bytes with what one column gives: l and h."""
    nibble = splat(i32x8, 0x0F0F0F0F)
    index = bitcast(i8x32, v & nibble)
    low = low + look_up(repeat(i8x32, load(i8x16, tables)), index)
    high = high + look_up(repeat(i8x32, load(i8x16, tables + 16)), index)
    index = bitcast(i8x32, shift_right(v, 4) & nibble)
    low = low + look_up(repeat(i8x32, load(i8x16, tables + 32)), index)
    return low, high + look_up(repeat(i8x32, load(i8x16, tables + 48)), index)


@helper
def widened(even: Any, odd: Any, narrow: Any) -> Any:
    """Sums of int16 with the even bytes and with the odd bytes."""
    x = bitcast(i16x16, narrow)
    return even + shift_right_signed(shift_left(x, 8), 8), odd + shift_right_signed(x, 8)


@helper
def three_columns(tables: int, w: int, columns: int, sums: Any) -> Any:
    """int16 sums with up to three columns, whose sums of bytes cannot overflow."""
    low, high = zeros(i8x32), zeros(i8x32)
    for column in range(columns):
        low, high = found(tables + column * 64, load(i32x8, w + column * 32), low, high)
    low_even, low_odd, high_even, high_odd = sums
    low_even, low_odd = widened(low_even, low_odd, low)
    high_even, high_odd = widened(high_even, high_odd, high)
    return low_even, low_odd, high_even, high_odd


@helper
def block_sums(tables: int, w: int) -> Any:
    """Σ (code − 1) · q of the first 16 rows and of the other 16 over one block."""
    sums = zeros(i16x16), zeros(i16x16), zeros(i16x16), zeros(i16x16)
    for group in range(5):
        sums = three_columns(tables + group * 192, w + group * 96, 3, sums)
        prefetch(w + group * 96 + AHEAD)
    low_even, low_odd, high_even, high_odd = three_columns(tables + 960, w + 480, 1, sums)
    return low_even + shift_left(high_even, 4), low_odd + shift_left(high_odd, 4)


@helper
def add_blocks(arguments: int, tables: int, pair: int, token: int, first: int, count: int) -> None:
    """Add some blocks' part of the product to y, for 32 rows and one token."""
    w = codes_of(arguments, pair) + first * PAIR_BYTES
    s = scales_of(arguments, pair)
    d = argument(arguments, D) + token * argument(arguments, D_STRIDE)
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + pair * 128
    low, high = zeros(f32x16), zeros(f32x16)
    if first > 0:
        low, high = load(f32x16, y), load(f32x16, y + 64)
    for block in range(first, first + count):
        one, other = block_sums(tables, w)
        at, d_here = s + (block >> 1) * SCALES_BYTES, broadcast(f32x16, d + block * 4)
        scale = half_to_float(f32x16, load(i16x16, at))
        low = low + scale * d_here * to_float(f32x16, sign_extend(i32x16, one))
        scale = half_to_float(f32x16, load(i16x16, at + 32))
        high = high + scale * d_here * to_float(f32x16, sign_extend(i32x16, other))
        tables, w = tables + BLOCK_TABLES, w + PAIR_BYTES
    store(y, low)
    store(y + 64, high)


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    tables, parts = scratch(TABLES_BYTES), scratch(128)
    second = seconds(parts)
    num_blocks = argument(arguments, NUM_BLOCKS)
    for token in range(argument(arguments, NUM_TOKENS)):
        q = argument(arguments, Q) + token * argument(arguments, Q_STRIDE)
        for begin in range(0, num_blocks, PANEL_BLOCKS):
            count = min(PANEL_BLOCKS, num_blocks - begin)
            for block in range(count):
                make_tables(tables + block * BLOCK_TABLES, parts, second, q + (begin + block) * 64)
            for pair in range(first, last):
                add_blocks(arguments, tables, pair, token, begin, count)
