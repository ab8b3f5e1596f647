"""SwiGLU by NumPy, operation by operation as the kernels compute it."""

import numpy as np

from quant.kernels.elementary.reference import Floats, canonical, silu
from quant.kernels.norm.reference import Quantized, quantize_blocks, rms_norm_quantize


def swiglu(gate_TI: Floats, up_TI: Floats) -> Floats:
    """silu(gate) · up; NaN where either is, and where zero meets infinity."""
    with np.errstate(all="ignore"):
        return canonical(silu(gate_TI) * up_TI)


def swiglu_quantize(gate_TI: Floats, up_TI: Floats) -> Quantized:
    return quantize_blocks(swiglu(gate_TI, up_TI))


def swiglu_norm_quantize(
    gate_TI: Floats, up_TI: Floats, gain: Floats, eps: np.float32
) -> tuple[Floats, *Quantized]:
    """The values before the norm, and the codes, scales and −Σ codes after it."""
    values_TI = swiglu(gate_TI, up_TI)
    return values_TI, *rms_norm_quantize(values_TI, gain, eps)
