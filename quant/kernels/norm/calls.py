"""Argument tables of RMSNorm and of the block quantiser, made of arrays."""

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.activations import BLOCK, num_blocks
from quant.kernels.elementary.calls import VectorCall, check_array, set_rows
from quant.kernels.elementary.places import EPSILON, GAIN, GAIN_STRIDE, NUM_HEADS, NUM_INPUTS, NUM_PLACES
from quant.kernels.operation import Arrays
from quant.kernels.places import D_STRIDE, Q_STRIDE, STARTS, Y_STRIDE, D, Q, Y

Floats = NDArray[np.float32]


def quantize_call(x_TI: Floats) -> VectorCall:
    """Codes, scales and −Σ codes of tokens, as `quant.activations` has them."""
    table = row_table(x_TI)
    outputs = set_quantized(table, shape=x_TI.shape)
    return VectorCall(table=table, outputs=outputs, units=outputs[1].size, held=(x_TI,))


def rms_norm_call(x_TI: Floats, gain: Floats, *, eps: np.float32, num_heads: int = 1) -> VectorCall:
    """y [tokens, inputs]; the gains are one head's, for all of them, or those of all heads."""
    table = row_table(x_TI)
    num_tokens, num_inputs = x_TI.shape
    if num_heads < 1 or num_inputs % num_heads:
        raise UsageError(f"{num_inputs} inputs cannot be parted into {num_heads} heads")
    size = num_inputs // num_heads
    table[NUM_INPUTS], table[NUM_HEADS] = size, num_heads
    set_gain(table, gain, sizes=(size, num_inputs), eps=eps)
    table[GAIN_STRIDE] = size * 4 if gain.size == num_inputs else 0
    y = set_values(table, shape=x_TI.shape)
    return VectorCall(table=table, outputs=(y,), units=num_tokens * num_heads, held=(x_TI, gain))


def rms_norm_quantize_call(x_TI: Floats, gain: Floats, *, eps: np.float32) -> VectorCall:
    """Codes, scales and −Σ codes of normed tokens."""
    table = row_table(x_TI)
    set_gain(table, gain, sizes=(x_TI.shape[1],), eps=eps)
    outputs = set_quantized(table, shape=x_TI.shape)
    return VectorCall(table=table, outputs=outputs, units=x_TI.shape[0], held=(x_TI, gain))


def row_table(x_TI: Floats, *, what: str = "the tokens") -> NDArray[np.int64]:
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    set_rows(table, x_TI, shape=x_TI.shape, what=what)
    table[NUM_INPUTS] = x_TI.shape[1]
    return table


def set_gain(table: NDArray[np.int64], gain: Floats, *, sizes: tuple[int, ...], eps: np.float32) -> None:
    check_array(
        gain, shape=(gain.size if gain.size in sizes else sizes[0],), dtype=np.float32, what="the gains"
    )
    if not 0 < eps < np.inf:
        raise UsageError(f"epsilon must be above 0 and finite, got {eps}")
    table[GAIN], table[EPSILON] = gain.ctypes.data, np.float32(eps).view(np.int32)


def set_quantized(table: NDArray[np.int64], *, shape: tuple[int, ...]) -> Arrays:
    num_tokens, blocks = shape[0], num_blocks(shape[1])
    codes = np.empty((num_tokens, blocks * BLOCK), dtype=np.int8)
    scales = np.empty((num_tokens, blocks), dtype=np.float32)
    neg_sums = np.empty((num_tokens, blocks), dtype=np.int32)
    table[Q], table[Q_STRIDE], table[D] = codes.ctypes.data, codes.strides[0], scales.ctypes.data
    table[STARTS], table[D_STRIDE] = neg_sums.ctypes.data, scales.strides[0]
    return codes, scales, neg_sums


def set_values(table: NDArray[np.int64], *, shape: tuple[int, ...]) -> Floats:
    y = np.empty(shape, dtype=np.float32)
    table[Y], table[Y_STRIDE] = y.ctypes.data, y.strides[0]
    return y
