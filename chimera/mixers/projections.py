"""What the mixers share around their recurrence: float32 gates and the norm of each head."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.mixers.precision import full_precision, widened


class GateProjection(nn.Module):
    """One number a head from each token. It decides what is kept: too small and too sensitive to quantise."""

    def __init__(self, *, width: int, num_heads: int, init_std: float) -> None:
        super().__init__()
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(num_heads, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal, or zeros for a deviation of 0: then only the bias speaks at first."""
        nn.init.normal_(self.weight, std=self.init_std)


@full_precision
def project_gates(x_BTD: Tensor, gates: Sequence[GateProjection]) -> tuple[Tensor, ...]:
    """The gates' numbers before their activation, [B, T, H] each, in float32 and as one product."""
    weight = torch.cat([gate.weight for gate in gates])
    return F.linear(widened(x_BTD), widened(weight)).chunk(len(gates), dim=-1)


class HeadNorm(nn.Module):
    """RMS norm of each head's channels by itself, with a gain for every channel of every head."""

    def __init__(self, *, num_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head_dim = head_dim
        self.weight = nn.Parameter(torch.ones(num_heads * head_dim))

    def forward(self, x_BTHV: Tensor) -> Tensor:
        """Normed, in float32."""
        normed = F.rms_norm(widened(x_BTHV), (self.head_dim,), None, self.eps)
        return normed * self.weight.view(-1, self.head_dim)


def unit(x: Tensor) -> Tensor:
    """Scaled to length one along the last axis; zero stays zero."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6)
