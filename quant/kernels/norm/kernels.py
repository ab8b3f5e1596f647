"""RMSNorm and the block quantiser over rows. The reference says what they compute."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import D_STRIDE, Q_STRIDE, STARTS, Y_STRIDE, D, Q, Y, argument
from quant.kernels.elementary.functions import canonical
from quant.kernels.elementary.places import EPSILON, GAIN, GAIN_STRIDE, NUM_HEADS, NUM_INPUTS, X_STRIDE, X
from quant.kernels.norm.blocks import block_after, load_block, place_of_block, store_quantized
from quant.lanes import add_lanes
from quant.registers import f32x16, i32x16
from quant.simd import bitcast, load, load_first, splat, square_root, store, store_first, zeros


@helper
def scale_of_row(arguments: int, x: int, count: int) -> Any:
    """1 / √(mean + ε) of a row or a head, in all lanes."""
    sums, whole = zeros(f32x16), count & -16
    for i in range(0, whole, 16):
        v = load(f32x16, x + i * 4)
        sums = sums + v * v
    if whole < count:
        v = load_first(f32x16, x + whole * 4, count - whole)
        sums = sums + v * v
    mean = splat(f32x16, add_lanes(sums)) / splat(f32x16, count)
    eps = bitcast(f32x16, splat(i32x16, argument(arguments, EPSILON)))
    return splat(f32x16, 1.0) / square_root(mean + eps)


@helper
def quantize_block(values: Any, arguments: int, token: int, block: int) -> None:
    q = argument(arguments, Q) + token * argument(arguments, Q_STRIDE) + block * 64
    d_stride = argument(arguments, D_STRIDE)
    d = argument(arguments, D) + token * d_stride + block * 4
    store_quantized(values, q, d, argument(arguments, STARTS) + token * d_stride + block * 4)


@helper
def norm_quantize_row(arguments: int, token: int, x: int) -> None:
    """One row at an address, normed and quantised."""
    count, gain = argument(arguments, NUM_INPUTS), argument(arguments, GAIN)
    r = scale_of_row(arguments, x, count)
    for block in range((count + 63) >> 6):
        left = count - block * 64
        y = (load_block(x + block * 256, left) * r) * load_block(gain + block * 256, left)
        quantize_block(y, arguments, token, block)


@kernel
def rms_norm_quantize(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens."""
    for token in range(first, last):
        x = argument(arguments, X) + token * argument(arguments, X_STRIDE)
        norm_quantize_row(arguments, token, x)


@kernel
def rms_norm(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count heads of all tokens; a row that is normed as a whole is one head."""
    count, heads = argument(arguments, NUM_INPUTS), argument(arguments, NUM_HEADS)
    for i in range(first, last):
        token, head = i // heads, i % heads
        x = argument(arguments, X) + token * argument(arguments, X_STRIDE) + head * count * 4
        y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + head * count * 4
        gain = argument(arguments, GAIN) + head * argument(arguments, GAIN_STRIDE)
        r, whole = scale_of_row(arguments, x, count), count & -16
        for at in range(0, whole * 4, 64):
            store(y + at, canonical((load(f32x16, x + at) * r) * load(f32x16, gain + at)))
        if whole < count:
            at, left = whole * 4, count - whole
            v = (load_first(f32x16, x + at, left) * r) * load_first(f32x16, gain + at, left)
            store_first(y + at, canonical(v), left)


@kernel
def quantize(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count blocks of all tokens."""
    count = argument(arguments, NUM_INPUTS)
    token, block = place_of_block(count, first)
    for _ in range(first, last):
        x = argument(arguments, X) + token * argument(arguments, X_STRIDE) + block * 256
        quantize_block(load_block(x, count - block * 64), arguments, token, block)
        token, block = block_after(count, token, block)
