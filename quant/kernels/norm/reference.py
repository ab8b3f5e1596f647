"""RMSNorm and the block quantiser by NumPy, operation by operation as the kernels compute them.

    mean = Σ x² / n;  r = 1 / √(mean + ε);  y = (x · r) · gain

The sum runs in 16 lanes, element i in lane i mod 16, and then joins lanes 8 apart, 4, 2 and 1. Where it
overflows, r is zero. A NaN or an infinity in a row shows in its results: a NaN makes the whole row NaN; an
infinity becomes NaN itself, beside zeros. A block with a NaN has the scale NaN and codes of zero; one with an
infinity has an infinite scale and codes of zero.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.activations import BLOCK, MAX_CODE, SMALLEST_MAXIMUM, num_blocks
from quant.kernels.elementary.reference import Floats, canonical, quotient

Quantized: TypeAlias = tuple[NDArray[np.int8], Floats, NDArray[np.int32]]
"""Codes [tokens, blocks · 64], scales [tokens, blocks], −Σ codes [tokens, blocks]."""

LANES = 16


def quantize_blocks(x_TI: Floats) -> Quantized:
    """As `quant.activations.quantize_activations`, for numbers that need not be finite."""
    num_tokens, num_inputs = x_TI.shape
    blocks = num_blocks(num_inputs)
    x_TQ_64 = _padded(x_TI, multiple=BLOCK).reshape(num_tokens, blocks, BLOCK)
    with np.errstate(all="ignore"):
        largest_TQ = np.maximum(np.abs(x_TQ_64).max(axis=2), SMALLEST_MAXIMUM)
        scaled_TQ_64 = x_TQ_64 * quotient(np.float32(MAX_CODE), largest_TQ)[:, :, None]
        codes = np.rint(np.where(scaled_TQ_64 == scaled_TQ_64, scaled_TQ_64, np.float32(0))).astype(np.int8)
        scales = canonical(quotient(largest_TQ, np.float32(MAX_CODE)))
    return codes.reshape(num_tokens, -1), scales, -codes.sum(axis=2, dtype=np.int32)


def rms_norm(x_TI: Floats, gain: Floats, eps: np.float32, num_heads: int = 1) -> Floats:
    """A row, or each head of it on its own; one head's gains serve all heads, or each has its own."""
    num_tokens, num_inputs = x_TI.shape
    x_TH_K = x_TI.reshape(num_tokens * num_heads, -1)
    size = x_TH_K.shape[1]
    gain_H_K = gain.reshape(-1, size)
    gain_TH_K = np.tile(gain_H_K, (num_tokens * num_heads // len(gain_H_K), 1))
    with np.errstate(all="ignore"):
        mean_TH = quotient(sum_of_squares(x_TH_K), np.float32(size))
        r_TH = quotient(np.float32(1), np.sqrt(mean_TH + eps))
        return canonical(((x_TH_K * r_TH[:, None]) * gain_TH_K).reshape(num_tokens, num_inputs))


def rms_norm_quantize(x_TI: Floats, gain: Floats, eps: np.float32) -> Quantized:
    return quantize_blocks(rms_norm(x_TI, gain, eps))


def sum_of_squares(x: Floats) -> Floats:
    """Σ x² of each row."""
    parts = _padded(x, multiple=LANES).reshape(len(x), -1, LANES)
    lanes = np.zeros((len(x), LANES), dtype=np.float32)
    for place in range(parts.shape[1]):
        lanes = lanes + parts[:, place] * parts[:, place]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def _padded(x: Floats, *, multiple: int) -> Floats:
    padded = np.zeros((len(x), -(-x.shape[1] // multiple) * multiple), dtype=np.float32)
    padded[:, : x.shape[1]] = x
    return padded
