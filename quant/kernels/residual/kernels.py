"""The residual stream on registers. The reference says what they compute."""

from quant.jit import helper, kernel
from quant.kernels.arguments import Y_STRIDE, Y, argument
from quant.kernels.elementary.functions import canonical
from quant.kernels.elementary.places import GAIN, NUM_INPUTS, X_STRIDE, X
from quant.kernels.norm.blocks import load_block
from quant.kernels.norm.kernels import quantize_block, scale_of_row
from quant.kernels.residual.parts import load_part, store_part
from quant.kernels.residual.places import ADDEND, ADDEND_STRIDE, SUM, SUM_STRIDE
from quant.simd import store, store_first


@helper
def add_rows(x: int, addend: int, total: int, count: int) -> None:
    """Write the sum of two rows, which may take the place of either."""
    for i in range(0, count, 16):
        at, left = i * 4, count - i
        store_part(total + at, canonical(load_part(x + at, left) + load_part(addend + at, left)), left)


@kernel
def norm_both(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens. With an addend, the sum is normed."""
    count, gain, addend = (
        argument(arguments, NUM_INPUTS),
        argument(arguments, GAIN),
        argument(arguments, ADDEND),
    )
    for token in range(first, last):
        x = argument(arguments, X) + token * argument(arguments, X_STRIDE)
        if addend != 0:
            total = argument(arguments, SUM) + token * argument(arguments, SUM_STRIDE)
            add_rows(x, addend + token * argument(arguments, ADDEND_STRIDE), total, count)
            x = total
        y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE)
        r = scale_of_row(arguments, x, count)
        for block in range((count + 63) >> 6):
            at, left = block * 256, count - block * 64
            normed = (load_block(x + at, left) * r) * load_block(gain + at, left)
            if left >= 64:
                store(y + at, canonical(normed))
            else:
                store_first(y + at, canonical(normed), left)
            quantize_block(normed, arguments, token, block)
