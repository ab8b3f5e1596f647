"""The residual stream by NumPy, operation by operation as the kernels compute it.

x = x + y;  x̂ = RMSNorm(x);  x̃ = Q(x̂)
"""

import numpy as np

from quant.kernels.elementary.reference import Floats, canonical
from quant.kernels.norm.reference import Quantized, quantize_blocks, rms_norm


def add_rows(x_TD: Floats, y_TD: Floats) -> Floats:
    """The sum."""
    with np.errstate(all="ignore"):
        return canonical(x_TD + y_TD)


def norm_both(x_TD: Floats, gain: Floats, eps: np.float32) -> tuple[Floats, *Quantized]:
    """The norm as floats, and its codes, scales and −Σ codes."""
    normed_TD = rms_norm(x_TD, gain, eps)
    return normed_TD, *quantize_blocks(normed_TD)


def add_norm_both(
    x_TD: Floats, y_TD: Floats, gain: Floats, eps: np.float32
) -> tuple[Floats, Floats, *Quantized]:
    """The sum, and what `norm_both` gives of it."""
    sum_TD = add_rows(x_TD, y_TD)
    return sum_TD, *norm_both(sum_TD, gain, eps)
