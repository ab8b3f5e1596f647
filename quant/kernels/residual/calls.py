"""Argument tables of operations on the residual stream, made of arrays."""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary.calls import VectorCall, set_rows
from quant.kernels.norm.calls import row_table, set_gain, set_quantized, set_values
from quant.kernels.residual.places import ADDEND, ADDEND_STRIDE, SUM, SUM_STRIDE

Floats = NDArray[np.float32]


def add_rows_call(x_TD: Floats, y_TD: Floats) -> VectorCall:
    """The sum of tokens with others."""
    table, total = row_table(x_TD), np.empty(x_TD.shape, dtype=np.float32)
    set_rows(table, y_TD, shape=x_TD.shape, address=ADDEND, stride=ADDEND_STRIDE, what="what is added")
    table[SUM], table[SUM_STRIDE] = total.ctypes.data, total.strides[0]
    return VectorCall(table=table, outputs=(total,), units=x_TD.shape[0], held=(x_TD, y_TD))


def norm_both_call(x_TD: Floats, gain: Floats, *, eps: np.float32) -> VectorCall:
    """Normed tokens as floats, and their codes, scales and −Σ codes."""
    table = row_table(x_TD)
    set_gain(table, gain, sizes=(x_TD.shape[1],), eps=eps)
    outputs = (set_values(table, shape=x_TD.shape), *set_quantized(table, shape=x_TD.shape))
    return VectorCall(table=table, outputs=outputs, units=x_TD.shape[0], held=(x_TD, gain))


def add_norm_both_call(x_TD: Floats, y_TD: Floats, gain: Floats, *, eps: np.float32) -> VectorCall:
    """The sum of tokens with others, and the same of the sum."""
    call = norm_both_call(x_TD, gain, eps=eps)
    total = np.empty(x_TD.shape, dtype=np.float32)
    set_rows(call.table, y_TD, shape=x_TD.shape, address=ADDEND, stride=ADDEND_STRIDE, what="what is added")
    call.table[SUM], call.table[SUM_STRIDE] = total.ctypes.data, total.strides[0]
    return VectorCall(
        table=call.table, outputs=(total, *call.outputs), units=call.units, held=(*call.held, y_TD)
    )
