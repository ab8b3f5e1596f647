"""Argument tables of the matrix LSTM's step, made of arrays whose shapes and types are checked before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.kernels.delta.calls import checked_heads, epsilon_bits
from quant.kernels.elementary.calls import VectorCall, check_array, set_rows
from quant.kernels.mlstm.places import (
    EPSILON,
    FORGET_BIASES,
    FORGET_GATES,
    FORGET_STRIDE,
    GAIN,
    GATE_STRIDE,
    GATES,
    HEAD_SIZE,
    INPUT_BIASES,
    INPUT_GATES,
    INPUT_STRIDE,
    IS_EXPONENTIAL,
    KEY_STRIDE,
    KEYS,
    LOG_SCALE,
    MEMORY,
    NORMALISER,
    NUM_PLACES,
    NUM_TOKENS,
    QUERIES,
    QUERY_STRIDE,
    VALUE_STRIDE,
    VALUES,
    Y_STRIDE,
    Y,
)
from quant.kernels.mlstm.reference import MLSTMState, MLSTMTokens, MLSTMWeights

Floats = NDArray[np.float32]


def mlstm_call(tokens: MLSTMTokens, weights: MLSTMWeights, state: MLSTMState) -> VectorCall:
    """y [tokens, heads · K], and the state's arrays, which are written anew where they are."""
    num_tokens = tokens.q.shape[0]
    num_heads, size = checked_heads(state.memory)
    wide, narrow = (num_tokens, num_heads * size), (num_tokens, num_heads)
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    for rows, shape, address, stride, what in (
        (tokens.q, wide, QUERIES, QUERY_STRIDE, "the queries"),
        (tokens.k, wide, KEYS, KEY_STRIDE, "the keys"),
        (tokens.v, wide, VALUES, VALUE_STRIDE, "the values"),
        (tokens.input_gate, narrow, INPUT_GATES, INPUT_STRIDE, "the input gates"),
        (tokens.forget_gate, narrow, FORGET_GATES, FORGET_STRIDE, "the forget gates"),
        (tokens.gate, wide, GATES, GATE_STRIDE, "the output gates"),
    ):
        if rows is not None:
            set_rows(table, rows, shape=shape, address=address, stride=stride, what=what)
    for array, shape, address, what in (
        (weights.input_bias, (num_heads,), INPUT_BIASES, "the biases of the input gates"),
        (weights.forget_bias, (num_heads,), FORGET_BIASES, "the biases of the forget gates"),
        (weights.gain, (num_heads * size,), GAIN, "the gains"),
        (state.memory, (num_heads, size, size), MEMORY, "the memory"),
        (state.normaliser, (num_heads, size), NORMALISER, "the normaliser"),
        (state.log_scale, (num_heads,), LOG_SCALE, "the scale"),
    ):
        check_array(array, shape=shape, dtype=np.float32, what=what)
        table[address] = array.ctypes.data
    table[EPSILON], table[IS_EXPONENTIAL] = epsilon_bits(weights.eps), int(weights.exponential_gating)
    table[HEAD_SIZE], table[NUM_TOKENS] = size, num_tokens
    y = np.empty(wide, dtype=np.float32)
    table[Y], table[Y_STRIDE] = y.ctypes.data, y.strides[0]
    outputs = (y, state.memory, state.normaliser, state.log_scale)
    return VectorCall(table=table, outputs=outputs, units=num_heads, held=_held(tokens, weights))


def _held(tokens: MLSTMTokens, weights: MLSTMWeights) -> tuple[NDArray[Any], ...]:
    held = (tokens.q, tokens.k, tokens.v, tokens.input_gate, tokens.forget_gate)
    held = (*held, weights.input_bias, weights.forget_bias, weights.gain)
    return held if tokens.gate is None else (*held, tokens.gate)
