"""Gates of the delta rule's exact flow (error-free linear attention).

The delta rule is one Euler step of an ordinary differential equation. Solved exactly over one unit of time,

    dS/dτ = −((1−α) I + αβ k kᵀ) S + β k vᵀ

has the same rank-one form, with other gates:

    log decay = −(1−α)      erase = (1 − e^{−ρλ})/λ      write = β (1 − e^{−η})/η
    λ = ‖k‖²      ρ = αβ      η = (1−α) + ρλ

α = 1 gives the form without a decay gate, where erase and write are equal. Keys are not normalised: their
length says how hard to write, and the factor along k stays in (0, 1] for any length, where the Euler step's
turns negative.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chimera.mixers.precision import full_precision, widened

# Below it the series is exact to float64, and above it the quotient's slope still has four digits in float32.
SERIES_BELOW = 1e-2


class DeltaGates(NamedTuple):
    """The three numbers a token and head that the gated delta rule takes."""

    log_decay_BTH: Tensor
    erase_BTH: Tensor
    write_BTH: Tensor


def mean_decay(x: Tensor) -> Tensor:
    """(1 − e^{−x})/x, the mean of e^{−t} from 0 to x; 1 at 0, where the quotient loses its digits."""
    small = x.abs() < SERIES_BELOW
    # Each form sees arguments that it can take: an overflow in the form not chosen would spoil the gradient.
    near, far = torch.where(small, x, 0.0), torch.where(small, 1.0, x)
    series = 1 - near / 2 * (1 - near / 3 * (1 - near / 4 * (1 - near / 5 * (1 - near / 6))))
    return torch.where(small, series, -torch.expm1(-far) / far)


@full_precision
def exact_flow_gates(k_BTHK: Tensor, *, log_alpha_BTH: Tensor, beta_BTH: Tensor) -> DeltaGates:
    """The exact flow's gates for keys of any length."""
    length_squared = widened(k_BTHK).square().sum(dim=-1)
    log_alpha_BTH, beta_BTH = widened(log_alpha_BTH), widened(beta_BTH)
    loss = -torch.expm1(log_alpha_BTH)  # 1 − α
    rho = log_alpha_BTH.exp() * beta_BTH
    return DeltaGates(
        log_decay_BTH=-loss,
        erase_BTH=rho * mean_decay(rho * length_squared),
        write_BTH=beta_BTH * mean_decay(loss + rho * length_squared),
    )
