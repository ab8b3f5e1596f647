"""Rows added to rows, and nothing else: a correction to the product that it belongs to."""

from quant.jit import kernel
from quant.kernels.arguments import argument
from quant.kernels.elementary.places import NUM_INPUTS, X_STRIDE, X
from quant.kernels.residual.kernels import add_rows
from quant.kernels.residual.places import ADDEND, ADDEND_STRIDE, SUM, SUM_STRIDE


@kernel
def add(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens."""
    count = argument(arguments, NUM_INPUTS)
    for token in range(first, last):
        x = argument(arguments, X) + token * argument(arguments, X_STRIDE)
        addend = argument(arguments, ADDEND) + token * argument(arguments, ADDEND_STRIDE)
        add_rows(x, addend, argument(arguments, SUM) + token * argument(arguments, SUM_STRIDE), count)
