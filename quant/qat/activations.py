"""Activations in training: RMSNorm, then the numbers of `quant.activations`, with a gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.activations import BLOCK, MAX_CODE, SMALLEST_MAXIMUM, ActBlock
from quant.qat.straight_through import straight_through

_SMALLEST_MAXIMUM = float(SMALLEST_MAXIMUM)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · gain over the last axis, in float32 whatever comes in."""

    def __init__(self, num_features: int, *, eps: float = 1e-6, device: torch.device | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def quantized_activations(x: Tensor, *, block: ActBlock = BLOCK) -> Tensor:
    """d × q in float32, without a gradient, for blocks along the last axis."""
    x = x.detach().float()
    num_inputs = x.shape[-1]
    missing = -num_inputs % BLOCK if block == BLOCK else 0
    padded = F.pad(x, (0, missing)) if missing else x
    blocks = padded.unflatten(-1, (-1, BLOCK)) if block == BLOCK else padded
    largest = blocks.abs().amax(dim=-1, keepdim=True).clamp_min(_SMALLEST_MAXIMUM)
    # A tensor, because torch makes a division by a number a product with its inverse, which rounds twice.
    max_code = torch.full_like(largest, MAX_CODE)
    value = torch.round(blocks * (max_code / largest)) * (largest / max_code)
    return value.reshape(padded.shape)[..., :num_inputs]


def fake_quantize_activations(x: Tensor, *, block: ActBlock = BLOCK, mix: Tensor | None = None) -> Tensor:
    """The int8 value of activations, with the straight-through gradient; `mix` is the gradual λ."""
    x = x.float()
    return straight_through(x, quantized_activations(x, block=block), mix=mix)


def norm_quant(x: Tensor, norm: RMSNorm, *, block: ActBlock = BLOCK, mix: Tensor | None = None) -> Tensor:
    """Normalised and quantised, as every product takes its input; projections of one input share it."""
    return fake_quantize_activations(norm(x), block=block, mix=mix)
