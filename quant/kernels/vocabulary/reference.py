"""Weights of a vocabulary by NumPy: e^((score − best) / temperature) as a whole number of 2^-38.

A weight is rounded once, half to even; what is over seven hundred thousand million times less likely than
the best counts as nothing. From there on all is integers: sums, shares and draws are exact, whatever their
order, and a part of a vocabulary gives the same as the whole.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary.reference import exp, quotient
from quant.kernels.vocabulary.places import CHUNK, WEIGHT_BITS


def weights(
    scores: NDArray[np.float32], best: np.float32, temperature: np.float32
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The weight of each score, and their sums over chunks of 4096 ids. A NaN weighs nothing."""
    with np.errstate(all="ignore"):
        shares = exp(quotient(scores - best, temperature))
    bounded = np.where(shares < np.float32(1), shares, np.float32(1))
    sound = np.where(shares == shares, bounded, np.float32(0))
    found = np.rint(sound * np.float32(2.0**WEIGHT_BITS)).astype(np.int64)
    starts = range(0, scores.size, CHUNK)
    return found, np.array([found[start : start + CHUNK].sum() for start in starts], dtype=np.int64)
