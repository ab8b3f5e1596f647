"""Dense products by NumPy, operation by operation as the kernels compute them.

    y = W x [+ b]

The sum runs in 16 lanes, input i in lane i mod 16, each product rounded before it is added; then lanes 8
apart are joined, 4, 2 and 1, and the bias comes last.
"""

import numpy as np

from quant.kernels.elementary.reference import Floats, canonical

LANES = 16


def dense(x_TI: Floats, weight_OI: Floats, bias_O: Floats | None = None) -> Floats:
    """Products [tokens, outputs]."""
    with np.errstate(all="ignore"):
        y_TO = sum_of_products(x_TI[:, None, :], weight_OI[None, :, :])
        return canonical(y_TO if bias_O is None else y_TO + bias_O)


def sum_of_products(x: Floats, y: Floats) -> Floats:
    """Σ x · y over the last axis; the others are brought to one shape."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    x, y = _padded(x), _padded(y)
    lanes = np.zeros((*shape[:-1], LANES), dtype=np.float32)
    for first in range(0, x.shape[-1], LANES):
        lanes = lanes + x[..., first : first + LANES] * y[..., first : first + LANES]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _padded(x: Floats) -> Floats:
    padded = np.zeros((*x.shape[:-1], -(-x.shape[-1] // LANES) * LANES), dtype=np.float32)
    padded[..., : x.shape[-1]] = x
    return padded
