"""SwiGLU over rows. The reference says what it computes."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import Y_STRIDE, Y, argument
from quant.kernels.elementary.functions import canonical, silu_of_number
from quant.kernels.elementary.places import NUM_INPUTS, UP, UP_STRIDE, X_STRIDE, X
from quant.kernels.norm.blocks import block_after, load_block, place_of_block
from quant.kernels.norm.kernels import norm_quantize_row, quantize_block
from quant.simd import equal, select, store, store_first


@helper
def gated(gate: Any, up: Any) -> Any:
    return select(equal(gate, gate), silu_of_number(gate) * up, gate)


@helper
def gated_block(arguments: int, token: int, block: int, left: int) -> Any:
    gate = argument(arguments, X) + token * argument(arguments, X_STRIDE) + block * 256
    up = argument(arguments, UP) + token * argument(arguments, UP_STRIDE) + block * 256
    return gated(load_block(gate, left), load_block(up, left))


@helper
def store_gated_block(arguments: int, token: int, block: int, left: int) -> None:
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + block * 256
    values = canonical(gated_block(arguments, token, block, left))
    if left >= 64:
        store(y, values)
    else:
        store_first(y, values, left)


@kernel
def swiglu(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count blocks of all tokens. The result may take the place of either input."""
    count = argument(arguments, NUM_INPUTS)
    token, block = place_of_block(count, first)
    for _ in range(first, last):
        store_gated_block(arguments, token, block, count - block * 64)
        token, block = block_after(count, token, block)


@kernel
def swiglu_quantize(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count blocks of all tokens."""
    count = argument(arguments, NUM_INPUTS)
    token, block = place_of_block(count, first)
    for _ in range(first, last):
        quantize_block(gated_block(arguments, token, block, count - block * 64), arguments, token, block)
        token, block = block_after(count, token, block)


@kernel
def swiglu_norm_quantize(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens. The values before the norm are left at Y."""
    count = argument(arguments, NUM_INPUTS)
    for token in range(first, last):
        for block in range((count + 63) >> 6):
            store_gated_block(arguments, token, block, count - block * 64)
        norm_quantize_row(arguments, token, argument(arguments, Y) + token * argument(arguments, Y_STRIDE))
