"""Argument tables of the delta rule's step, made of arrays whose shapes and types are checked before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.delta.places import (
    ALPHA_STRIDE,
    ALPHAS,
    BETA_STRIDE,
    BETAS,
    BIASES,
    EPSILON,
    GAIN,
    GATE_STRIDE,
    GATES,
    HEAD_SIZE,
    KEY_STRIDE,
    KEYS,
    LARGEST_HEAD,
    MEMORY,
    NUM_PLACES,
    NUM_TOKENS,
    QUERIES,
    QUERY_STRIDE,
    RATES,
    VALUE_STRIDE,
    VALUES,
    Y_STRIDE,
    Y,
)
from quant.kernels.delta.reference import DeltaTokens, DeltaWeights
from quant.kernels.elementary.calls import VectorCall, check_array, set_rows

Floats = NDArray[np.float32]


def delta_call(tokens: DeltaTokens, weights: DeltaWeights, memory_HKV: Floats) -> VectorCall:
    """y [tokens, heads · K], and the memory, which is written anew where it is; for either rule."""
    num_tokens = tokens.q.shape[0]
    num_heads, size = checked_heads(memory_HKV)
    wide, narrow = (num_tokens, num_heads * size), (num_tokens, num_heads)
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    for rows, shape, address, stride, what in (
        (tokens.q, wide, QUERIES, QUERY_STRIDE, "the queries"),
        (tokens.k, wide, KEYS, KEY_STRIDE, "the keys"),
        (tokens.v, wide, VALUES, VALUE_STRIDE, "the values"),
        (tokens.alpha, narrow, ALPHAS, ALPHA_STRIDE, "the decays"),
        (tokens.beta, narrow, BETAS, BETA_STRIDE, "the write gates"),
        (tokens.gate, wide, GATES, GATE_STRIDE, "the output gates"),
    ):
        if rows is not None:
            set_rows(table, rows, shape=shape, address=address, stride=stride, what=what)
    for array, length, address, what in (
        (weights.rates, num_heads, RATES, "the rates of decay"),
        (weights.dt_bias, num_heads, BIASES, "the biases of decay"),
        (weights.gain, size, GAIN, "the gains"),
    ):
        check_array(array, shape=(length,), dtype=np.float32, what=what)
        table[address] = array.ctypes.data
    table[EPSILON] = epsilon_bits(weights.eps)
    table[MEMORY], table[HEAD_SIZE], table[NUM_TOKENS] = memory_HKV.ctypes.data, size, num_tokens
    y = np.empty(wide, dtype=np.float32)
    table[Y], table[Y_STRIDE] = y.ctypes.data, y.strides[0]
    held: tuple[NDArray[Any], ...] = (tokens.q, tokens.k, tokens.v, tokens.alpha, tokens.beta)
    held = (*held, weights.rates, weights.dt_bias, weights.gain)
    if tokens.gate is not None:
        held = (*held, tokens.gate)
    return VectorCall(table=table, outputs=(y, memory_HKV), units=num_heads, held=held)


def checked_heads(memory_HKV: Floats) -> tuple[int, int]:
    """The number of heads and their size."""
    num_heads, size = memory_HKV.shape[0], memory_HKV.shape[-1]
    if size % 16 or not 0 < size <= LARGEST_HEAD:
        raise UsageError(
            f"a head's size must be a multiple of 16 up to {LARGEST_HEAD}, got {size}",
            hint="The published config has heads of 64.",
        )
    check_array(memory_HKV, shape=(num_heads, size, size), dtype=np.float32, what="the memory")
    return num_heads, size


def epsilon_bits(eps: np.float32) -> np.int32:
    if not 0 < eps < np.inf:
        raise UsageError(f"epsilon must be above 0 and finite, got {eps}")
    return np.float32(eps).view(np.int32)
