"""The elementary functions over arrays. `first` and `last` count registers of sixteen elements."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import Y_STRIDE, Y, argument
from quant.kernels.elementary import functions
from quant.kernels.elementary.places import COSINES, NUM_INPUTS, POSITION, X
from quant.registers import f32x16, i64x16
from quant.simd import load, load_first, splat, store, store_first


@helper
def apply(function: Any, arguments: int, first: int, last: int) -> None:
    x, y, count = argument(arguments, X), argument(arguments, Y), argument(arguments, NUM_INPUTS)
    whole = min(last, count >> 4)
    for i in range(first, whole):
        store(y + i * 64, function(load(f32x16, x + i * 64)))
    for i in range(max(first, whole), last):
        left = count - i * 16
        store_first(y + i * 64, function(load_first(f32x16, x + i * 64, left)), left)


@kernel
def exp(arguments: int, first: int, last: int) -> None:
    apply(functions.exp, arguments, first, last)


@kernel
def log(arguments: int, first: int, last: int) -> None:
    apply(functions.log, arguments, first, last)


@kernel
def sigmoid(arguments: int, first: int, last: int) -> None:
    apply(functions.sigmoid, arguments, first, last)


@kernel
def softplus(arguments: int, first: int, last: int) -> None:
    apply(functions.softplus, arguments, first, last)


@kernel
def silu(arguments: int, first: int, last: int) -> None:
    apply(functions.silu, arguments, first, last)


@kernel
def tanh(arguments: int, first: int, last: int) -> None:
    apply(functions.tanh, arguments, first, last)


@kernel
def rotation_angles(arguments: int, first: int, last: int) -> None:
    """Sine and cosine of position × step for each token; `first` and `last` count tokens.

    A product that passes 2^64 wraps round, as whole turns do: the angle is exact at any position.
    """
    steps, count, stride = (
        argument(arguments, X),
        argument(arguments, NUM_INPUTS),
        argument(arguments, Y_STRIDE),
    )
    for token in range(first, last):
        sines, cosines = (
            argument(arguments, Y) + token * stride,
            argument(arguments, COSINES) + token * stride,
        )
        position = splat(i64x16, argument(arguments, POSITION) + token)
        for i in range(0, count, 16):
            sine, cosine = functions.sine_and_cosine(position * load_first(i64x16, steps + i * 8, count - i))
            store_first(sines + i * 4, sine, count - i)
            store_first(cosines + i * 4, cosine, count - i)
