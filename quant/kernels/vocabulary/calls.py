"""Argument tables of operations on a vocabulary, made of arrays whose shapes and types are checked before."""

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.elementary.calls import VectorCall, check_array
from quant.kernels.vocabulary.places import (
    BEST,
    CHUNK,
    NUM_PLACES,
    NUM_SCORES,
    SCORES,
    SUMS,
    TEMPERATURE,
    WEIGHTS,
)


def weights_call(scores: NDArray[np.float32], *, best: np.float32, temperature: np.float32) -> VectorCall:
    """Weights of scores, and their sums over chunks of 4096 ids."""
    check_array(scores, shape=(scores.size,), dtype=np.float32, what="the scores")
    if not 0 < temperature < np.inf:
        raise UsageError(f"a temperature must be above 0 and finite here, got {temperature}")
    chunks = -(-scores.size // CHUNK)
    weights, sums = np.empty(scores.size, dtype=np.int64), np.empty(chunks, dtype=np.int64)
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    table[SCORES], table[NUM_SCORES] = scores.ctypes.data, scores.size
    table[BEST], table[TEMPERATURE] = (np.float32(number).view(np.int32) for number in (best, temperature))
    table[WEIGHTS], table[SUMS] = weights.ctypes.data, sums.ctypes.data
    return VectorCall(table=table, outputs=(weights, sums), units=chunks, held=(scores,))
