"""Argument tables of the short convolution, made of arrays whose shapes and types are checked before."""

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.convolution.places import (
    LARGEST_TAPS,
    NUM_CHANNELS,
    NUM_PLACES,
    NUM_TAPS,
    NUM_TOKENS,
    TAIL,
    WEIGHT,
    X_STRIDE,
    Y_STRIDE,
    X,
    Y,
)
from quant.kernels.elementary.calls import VectorCall, check_array, set_rows

Floats = NDArray[np.float32]


def convolution_call(x_TD: Floats, weight_YD: Floats, tail_YD: Floats) -> VectorCall:
    """y [tokens, channels], and the tail, which is written anew where it is."""
    num_tokens, num_channels = x_TD.shape
    num_taps = weight_YD.shape[0]
    if not 2 <= num_taps <= LARGEST_TAPS:
        raise UsageError(f"a short convolution has 2 … {LARGEST_TAPS} taps, got {num_taps}")
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    set_rows(table, x_TD, shape=x_TD.shape, address=X, stride=X_STRIDE, what="the tokens")
    check_array(weight_YD, shape=(num_taps, num_channels), dtype=np.float32, what="the taps")
    check_array(tail_YD, shape=(num_taps - 1, num_channels), dtype=np.float32, what="the tail")
    table[WEIGHT], table[TAIL] = weight_YD.ctypes.data, tail_YD.ctypes.data
    table[NUM_CHANNELS], table[NUM_TAPS], table[NUM_TOKENS] = num_channels, num_taps, num_tokens
    y = np.empty((num_tokens, num_channels), dtype=np.float32)
    table[Y], table[Y_STRIDE] = y.ctypes.data, y.strides[0]
    units = -(-num_channels // 16)
    return VectorCall(table=table, outputs=(y, tail_YD), units=units, held=(x_TD, weight_YD))
