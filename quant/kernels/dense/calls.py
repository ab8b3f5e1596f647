"""Argument tables of dense products, made of arrays whose shapes and types are checked before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.kernels.dense.places import (
    BIAS,
    NUM_INPUTS,
    NUM_PLACES,
    NUM_ROWS,
    NUM_TOKENS,
    ROWS,
    WEIGHT,
    WEIGHT_STRIDE,
    X_STRIDE,
    Y_STRIDE,
    X,
    Y,
)
from quant.kernels.elementary.calls import VectorCall, check_array, set_rows

Floats = NDArray[np.float32]


def dense_call(x_TI: Floats, weight_OI: Floats, bias_O: Floats | None = None) -> VectorCall:
    """y [tokens, outputs]."""
    num_tokens, num_rows = x_TI.shape[0], weight_OI.shape[0]
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    set_rows(table, x_TI, shape=x_TI.shape, address=X, stride=X_STRIDE, what="the tokens")
    shape = (num_rows, x_TI.shape[1])
    set_rows(table, weight_OI, shape=shape, address=WEIGHT, stride=WEIGHT_STRIDE, what="the matrix")
    held: tuple[NDArray[Any], ...] = (x_TI, weight_OI)
    if bias_O is not None:
        check_array(bias_O, shape=(num_rows,), dtype=np.float32, what="the biases")
        table[BIAS] = bias_O.ctypes.data
        held = (*held, bias_O)
    table[NUM_INPUTS], table[NUM_ROWS], table[NUM_TOKENS] = x_TI.shape[1], num_rows, num_tokens
    y = np.empty((num_tokens, num_rows), dtype=np.float32)
    table[Y], table[Y_STRIDE] = y.ctypes.data, y.strides[0]
    return VectorCall(table=table, outputs=(y,), units=-(-num_rows // ROWS), held=held)
