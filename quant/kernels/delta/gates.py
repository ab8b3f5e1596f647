"""The delta rule's gates on registers, a head a lane: the operations of the reference, in the same order."""

from typing import Any

from quant.jit import helper
from quant.kernels.delta.reference import SERIES_BELOW, SMALLEST_LENGTH
from quant.kernels.elementary.constants import EXP
from quant.kernels.elementary.functions import exp, number
from quant.simd import less, select, square_root

E0, E1, E2, E3, E4 = EXP


@helper
def inverse_length(sums: Any) -> Any:
    """1 / √(Σ x² + 1e-6)."""
    return number(1.0) / square_root(sums + number(SMALLEST_LENGTH))


@helper
def mean_decay_series(x: Any) -> Any:
    y = -x
    p = ((number(E4) * y + number(E3)) * y + number(E2)) * y + number(E1)
    p = p * y + number(E0)
    return number(1.0) - x * p


@helper
def mean_decay(x: Any) -> Any:
    """(1 − e^{−x})/x."""
    far = (number(1.0) - exp(-x)) / x
    return select(less(x, number(SERIES_BELOW)), mean_decay_series(x), far)


@helper
def exact_flow_gates(u: Any, beta: Any, k_sums: Any) -> Any:
    """Decay, erase and write of the exact flow; u is −log α."""
    alpha = exp(-u)
    lost = select(less(u, number(SERIES_BELOW)), u * mean_decay_series(u), number(1.0) - alpha)
    rho = alpha * beta
    strength = rho * k_sums
    return exp(-lost), rho * mean_decay(strength), beta * mean_decay(lost + strength)
