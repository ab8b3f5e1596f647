"""The memory of one head: a network of two layers whose weights are what it has read.

    M(x) = x̃ + W2 SiLU(W1 x̃)        x̃ = √K · x, for x of unit length

The loss of a token is ½‖M(k) − v‖², and its gradients are outer products, kept as their factors:

    e = M(k) − v        a = SiLU(W1 k̃)        δ = (W2ᵀ e) ⊙ SiLU'(W1 k̃)
    ∂W2 = e aᵀ          ∂W1 = δ k̃ᵀ           ‖∂‖² = ‖e‖²‖a‖² + ‖δ‖²‖k̃‖²

so that a sum of them over tokens is one product of matrices. Both weights lie in one tensor [..., 2, K, K],
W1 first.
Titans (Behrouz et al., 2025), section 3.1; the residual form is that of test-time training layers.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.mixers.precision import full_precision


class WriteGradient(NamedTuple):
    """Gradients of the tokens' losses with respect to both weights, before they are clipped."""

    left: Tensor  # [..., 2, C, K] δ, then e
    right: Tensor  # [..., 2, C, K] k̃, then a
    squared_norm: Tensor  # [..., C] over both weights together


@full_precision
def read_memory(weights: Tensor, x: Tensor) -> Tensor:
    """M(x) for weights [..., 2, K, K] and rows x [..., C, K] of unit length."""
    x = x * x.shape[-1] ** 0.5
    return x + F.silu(x @ weights[..., 0, :, :].mT) @ weights[..., 1, :, :].mT


def write_gradient(weights: Tensor, *, k: Tensor, v: Tensor) -> WriteGradient:
    """The gradients for weights [..., 2, K, K], keys [..., C, K] of unit length and values [..., C, K]."""
    k = k * k.shape[-1] ** 0.5
    preact = k @ weights[..., 0, :, :].mT
    gate = torch.sigmoid(preact)
    hidden = preact * gate
    error = k + hidden @ weights[..., 1, :, :].mT - v
    back = (error @ weights[..., 1, :, :]) * gate * (1 + preact - hidden)
    squared_norm = _squares(error) * _squares(hidden) + _squares(back) * _squares(k)
    return WriteGradient(
        left=torch.stack((back, error), dim=-3),
        right=torch.stack((k, hidden), dim=-3),
        squared_norm=squared_norm,
    )


def _squares(x: Tensor) -> Tensor:
    return x.square().sum(dim=-1)
