"""Argument tables of SwiGLU, made of arrays."""

import numpy as np
from numpy.typing import NDArray

from quant.activations import num_blocks
from quant.kernels.elementary.calls import VectorCall, set_rows
from quant.kernels.elementary.places import UP, UP_STRIDE
from quant.kernels.norm.calls import row_table, set_gain, set_quantized, set_values

Floats = NDArray[np.float32]


def swiglu_call(gate_TI: Floats, up_TI: Floats) -> VectorCall:
    """silu(gate) · up [tokens, inputs]."""
    table = _table(gate_TI, up_TI)
    y = set_values(table, shape=gate_TI.shape)
    units = gate_TI.shape[0] * num_blocks(gate_TI.shape[1])
    return VectorCall(table=table, outputs=(y,), units=units, held=(gate_TI, up_TI))


def swiglu_quantize_call(gate_TI: Floats, up_TI: Floats) -> VectorCall:
    """Codes, scales and −Σ codes of silu(gate) · up."""
    table = _table(gate_TI, up_TI)
    outputs = set_quantized(table, shape=gate_TI.shape)
    return VectorCall(table=table, outputs=outputs, units=outputs[1].size, held=(gate_TI, up_TI))


def swiglu_norm_quantize_call(gate_TI: Floats, up_TI: Floats, gain: Floats, *, eps: np.float32) -> VectorCall:
    """silu(gate) · up, and the codes, scales and −Σ codes of its norm."""
    table = _table(gate_TI, up_TI)
    set_gain(table, gain, sizes=(gate_TI.shape[1],), eps=eps)
    y = set_values(table, shape=gate_TI.shape)
    outputs = (y, *set_quantized(table, shape=gate_TI.shape))
    return VectorCall(table=table, outputs=outputs, units=gate_TI.shape[0], held=(gate_TI, up_TI, gain))


def _table(gate_TI: Floats, up_TI: Floats) -> NDArray[np.int64]:
    table = row_table(gate_TI, what="the gate")
    set_rows(table, up_TI, shape=gate_TI.shape, address=UP, stride=UP_STRIDE, what="the other half")
    return table
