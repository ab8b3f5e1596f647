"""Argument tables of the choice and the weighted sum of experts, made of arrays."""

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.elementary.calls import VectorCall, check_array, set_rows
from quant.kernels.experts.places import (
    BIAS,
    CHOSEN,
    IS_SOFTMAX,
    LOG_SCORES,
    LOGITS,
    LOGITS_STRIDE,
    NUM_CHOSEN,
    NUM_EXPERTS,
    NUM_PLACES,
    PAIR_PLACES,
    ROWS,
    ROWS_STRIDE,
    SCORES,
    SHARED,
    SHARED_STRIDE,
    WEIGHTS,
    WIDTH,
    Y_STRIDE,
    Y,
)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def choose_call(logits_TE: Floats, bias_E: Floats, *, num_chosen: int, is_softmax: bool) -> VectorCall:
    """The experts of each token and their weights, [tokens, chosen] each."""
    num_tokens, num_experts = logits_TE.shape
    if not 1 <= num_chosen <= num_experts:
        raise UsageError(f"{num_chosen} of {num_experts} experts; allowed are 1 … {num_experts}")
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    set_rows(table, logits_TE, shape=logits_TE.shape, address=LOGITS, stride=LOGITS_STRIDE, what="the logits")
    check_array(bias_E, shape=(num_experts,), dtype=np.float32, what="the bias")
    work = np.empty((2, num_tokens, num_experts), dtype=np.float32)
    chosen = np.empty((num_tokens, num_chosen), dtype=np.int64)
    weights = np.empty((num_tokens, num_chosen), dtype=np.float32)
    table[NUM_EXPERTS], table[NUM_CHOSEN], table[IS_SOFTMAX] = num_experts, num_chosen, is_softmax
    table[BIAS], table[SCORES], table[LOG_SCORES] = (x.ctypes.data for x in (bias_E, work[0], work[1]))
    table[CHOSEN], table[WEIGHTS] = chosen.ctypes.data, weights.ctypes.data
    held = (logits_TE, bias_E, work)
    return VectorCall(table=table, outputs=(chosen, weights), units=num_tokens, held=held)


def weigh_call(rows_UD: Floats, shared_TD: Floats, weights_TA: Floats, places_TA: Integers) -> VectorCall:
    """The sum of each token's experts and the shared one, [tokens, width]."""
    num_tokens, width = shared_TD.shape
    num_pairs = weights_TA.size
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    set_rows(table, rows_UD, shape=(num_pairs, width), address=ROWS, stride=ROWS_STRIDE, what="the rows")
    set_rows(
        table, shared_TD, shape=shared_TD.shape, address=SHARED, stride=SHARED_STRIDE, what="the shared rows"
    )
    check_array(weights_TA, shape=(num_tokens, weights_TA.shape[1]), dtype=np.float32, what="the weights")
    check_array(places_TA, shape=weights_TA.shape, dtype=np.int64, what="the places")
    if places_TA.min() < 0 or places_TA.max() >= num_pairs:
        raise UsageError(f"places must lie in 0 … {num_pairs - 1}")
    y = np.empty(shared_TD.shape, dtype=np.float32)
    table[NUM_CHOSEN], table[WIDTH] = weights_TA.shape[1], width
    table[WEIGHTS], table[PAIR_PLACES] = weights_TA.ctypes.data, places_TA.ctypes.data
    table[Y], table[Y_STRIDE] = y.ctypes.data, y.strides[0]
    held = (rows_UD, shared_TD, weights_TA, places_TA)
    return VectorCall(table=table, outputs=(y,), units=num_tokens, held=held)
