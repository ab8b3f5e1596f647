"""SwiGLU over rows. The reference says what it computes."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import Y_STRIDE, Y, argument
from quant.kernels.elementary.functions import canonical, silu_of_number
from quant.kernels.elementary.places import NUM_INPUTS, UP, UP_STRIDE, X_STRIDE, X
from quant.kernels.norm.blocks import BLOCK_KIND, block_after, load_block, place_of_block
from quant.kernels.norm.kernels import norm_quantize_row, quantize_block
from quant.registers import f32x16, tile
from quant.simd import equal, load, load_first, scratch, select, store, store_first

HALF_KIND = tile(f32x16, 2)


@helper
def gated(gate: Any, up: Any) -> Any:
    return select(equal(gate, gate), silu_of_number(gate) * up, gate)


@helper
def itself(x: Any) -> Any:
    return x


@helper
def store_gated_block(finish: Any, y: int, arguments: int, token: int, block: int) -> None:
    """64 values, or as many as are left of a row."""
    gate = argument(arguments, X) + token * argument(arguments, X_STRIDE) + block * 256
    up = argument(arguments, UP) + token * argument(arguments, UP_STRIDE) + block * 256
    left = argument(arguments, NUM_INPUTS) - block * 64
    if left >= 64:
        # By halves: AVX2 has no registers for a whole block at once, which costs a tenth to a fifth.
        for half in range(0, 256, 128):
            store(y + half, finish(gated(load(HALF_KIND, gate + half), load(HALF_KIND, up + half))))
    else:
        values = gated(load_first(BLOCK_KIND, gate, left), load_first(BLOCK_KIND, up, left))
        store_first(y, finish(values), left)


@kernel
def swiglu(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count blocks of all tokens. The result may take the place of either input."""
    count = argument(arguments, NUM_INPUTS)
    token, block = place_of_block(count, first)
    for _ in range(first, last):
        y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + block * 256
        store_gated_block(canonical, y, arguments, token, block)
        token, block = block_after(count, token, block)


@kernel
def swiglu_quantize(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count blocks of all tokens."""
    count, values = argument(arguments, NUM_INPUTS), scratch(256)
    token, block = place_of_block(count, first)
    for _ in range(first, last):
        store_gated_block(itself, values, arguments, token, block)
        quantize_block(load_block(values, count - block * 64), arguments, token, block)
        token, block = block_after(count, token, block)


@kernel
def swiglu_norm_quantize(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens. The values before the norm are left at Y."""
    count = argument(arguments, NUM_INPUTS)
    for token in range(first, last):
        y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE)
        for block in range((count + 63) >> 6):
            store_gated_block(canonical, y + block * 256, arguments, token, block)
        norm_quantize_row(arguments, token, y)
