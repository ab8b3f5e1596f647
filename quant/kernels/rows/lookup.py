"""An embedding's rows as float32: y = float(code) * scale, for the rows whose numbers stand in a list.

A row's bytes lie 4 in every other cache line, so memory decides the time and one form serves every CPU. A
row is written whole, padding too: y has room for inputs padded to 64.
"""

from quant.jit import helper, kernel
from quant.kernels.arguments import CODES, IDS, NUM_BLOCKS, SCALES, Y_STRIDE, Y, argument
from quant.registers import f32x4, i8x4, i32x4, i64
from quant.simd import broadcast, load, shift_right, sign_extend, splat, store, to_float


@helper
def place_of(arguments: int, row: int, tiles: int) -> int:
    """Where a row's first four bytes are; the next are 128 further."""
    return argument(arguments, CODES) + (row >> 5) * tiles * 128 + (row & 31) * 4


@helper
def scale_of(arguments: int, row: int) -> int:
    return argument(arguments, SCALES) + row * 4


@kernel
def lookup_int8(arguments: int, first: int, last: int) -> None:
    tiles = argument(arguments, NUM_BLOCKS) * 16
    for i in range(first, last):
        row = load(i64, argument(arguments, IDS) + i * 8)
        w, y = place_of(arguments, row, tiles), argument(arguments, Y) + i * argument(arguments, Y_STRIDE)
        scale = broadcast(f32x4, scale_of(arguments, row))
        for t in range(tiles):
            codes = sign_extend(i32x4, load(i8x4, w + t * 128))
            store(y + t * 16, to_float(f32x4, codes) * scale)


@kernel
def lookup_int4(arguments: int, first: int, last: int) -> None:
    tiles = argument(arguments, NUM_BLOCKS) * 8
    for i in range(first, last):
        row = load(i64, argument(arguments, IDS) + i * 8)
        w, y = place_of(arguments, row, tiles), argument(arguments, Y) + i * argument(arguments, Y_STRIDE)
        scale, field, bias = broadcast(f32x4, scale_of(arguments, row)), splat(i32x4, 15), splat(i32x4, 8)
        for t in range(tiles):
            codes = sign_extend(i32x4, load(i8x4, w + t * 128))
            store(y + t * 32, to_float(f32x4, (codes & field) - bias) * scale)
            store(y + t * 32 + 16, to_float(f32x4, (shift_right(codes, 4) & field) - bias) * scale)


@kernel
def lookup_int2(arguments: int, first: int, last: int) -> None:
    tiles = argument(arguments, NUM_BLOCKS) * 4
    for i in range(first, last):
        row = load(i64, argument(arguments, IDS) + i * 8)
        w, y = place_of(arguments, row, tiles), argument(arguments, Y) + i * argument(arguments, Y_STRIDE)
        scale, field, bias = broadcast(f32x4, scale_of(arguments, row)), splat(i32x4, 3), splat(i32x4, 1)
        for t in range(tiles):
            codes = sign_extend(i32x4, load(i8x4, w + t * 128))
            for c in range(4):
                store(y + t * 64 + c * 16, to_float(f32x4, (codes & field) - bias) * scale)
                codes = shift_right(codes, 2)
