"""Integers copied and added; nothing else is computed."""

from quant.jit import kernel
from quant.kernels.arguments import argument
from quant.kernels.steering.places import SOURCE, TARGET
from quant.registers import i64
from quant.simd import load, put


@kernel
def copy_integer(arguments: int, first: int, last: int) -> None:
    for _ in range(first, last):
        put(i64, argument(arguments, TARGET), load(i64, argument(arguments, SOURCE)))


@kernel
def add_integer(arguments: int, first: int, last: int) -> None:
    for _ in range(first, last):
        target = argument(arguments, TARGET)
        put(i64, target, load(i64, target) + load(i64, argument(arguments, SOURCE)))
