"""How an operation on packed weights is called: `operation(arguments, first, last)`, three integers.

`arguments` is the address of a table of int64, so that a program is an array of such tables and one call of a
kernel costs little; `first` and `last` bound the part of the work that this call does. Threads share an
operation by these bounds, and no split changes a bit of the result.
"""

from quant.jit import helper
from quant.kernels.places import (
    CODES,
    D_STRIDE,
    IDS,
    NUM_ARGUMENTS,
    NUM_BLOCKS,
    NUM_TOKENS,
    Q_STRIDE,
    SCALES,
    STARTS,
    Y_STRIDE,
    D,
    Q,
    Y,
)
from quant.registers import i64
from quant.simd import load

__all__ = [
    "CODES",
    "D_STRIDE",
    "IDS",
    "NUM_ARGUMENTS",
    "NUM_BLOCKS",
    "NUM_TOKENS",
    "Q_STRIDE",
    "SCALES",
    "STARTS",
    "Y_STRIDE",
    "D",
    "Q",
    "Y",
    "argument",
]


@helper
def argument(arguments: int, place: int) -> int:
    return load(i64, arguments + place * 8)
