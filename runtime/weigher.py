"""Weights of a draw by this machine's kernel, into memory taken once."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

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
from quant.selfcheck import chosen

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]


class Weigher:
    """As `quant.kernels.vocabulary.reference.weights`, for up to so many scores."""

    def __init__(self, num_scores: int) -> None:
        self.scores: Floats = np.empty(num_scores, dtype=np.float32)
        """Where the caller puts the scores."""
        self._weights: Integers = np.empty(num_scores, dtype=np.int64)
        self._sums: Integers = np.empty(-(-num_scores // CHUNK), dtype=np.int64)
        self._kernel = chosen("vocabulary_weights").kernel
        self._table: Integers = np.zeros(NUM_PLACES, dtype=np.int64)
        self._table[SCORES] = self.scores.ctypes.data
        self._table[WEIGHTS] = self._weights.ctypes.data
        self._table[SUMS] = self._sums.ctypes.data
        self._address = self._table.ctypes.data

    def weigh(self, count: int, *, best: np.float32, temperature: np.float32) -> tuple[Integers, Integers]:
        """Weights of the first scores, and their sums by chunks; both are overwritten by the next call."""
        assert 0 < count <= self.scores.size, "as many scores as there is room for"
        chunks = -(-count // CHUNK)
        self._table[NUM_SCORES] = count
        self._table[BEST], self._table[TEMPERATURE] = best.view(np.int32), temperature.view(np.int32)
        self._kernel(self._address, 0, chunks)
        return self._weights[:count], self._sums[:chunks]
