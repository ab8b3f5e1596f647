"""Sherry in training: the numbers of `quant.sherry`, on any device, with a gradient, and Arenas beside them.

Which of four weights is the smallest is asked by comparisons, so that equal ones fall as in the reference
whatever the device; an arg-min may answer any of them.

**Arenas** keeps weights from being trapped: while it lasts, the product sees

    Q(W) + λ W            y = x Qᵀ + λ x Wᵀ,   dx = dy (Q + λ W),   dW = (1 + λ) dyᵀ x

so that the gradient has full rank, and weights of one sign and size can part. λ falls from `ARENAS_START` to
0 in a line over `ARENAS_SHARE` of a run. It acts in training mode alone: what is measured and exported is
Q(W). Sherry (2026), section 4.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import UsageError
from quant.qat.straight_through import straight_through
from quant.qat.weights import round_to_half
from quant.sherry import FOUR
from quant.ternary import GROUP, GroupSize

ARENAS_START = 0.1
ARENAS_SHARE = 0.9


def quantized_sherry(weight_OI: Tensor, *, group_size: GroupSize = GROUP) -> Tensor:
    """s × code in float32, without a gradient. Leading axes, as of stacked experts, are free."""
    weight_OI = weight_OI.detach().float()
    num_inputs = weight_OI.shape[-1]
    size = group_size if isinstance(group_size, int) else -(-num_inputs // FOUR) * FOUR
    missing = -num_inputs % size
    padded = F.pad(weight_OI, (0, missing)) if missing else weight_OI
    kept = _kept(padded.abs().unflatten(-1, (-1, FOUR))).flatten(-2)
    magnitude = torch.where(kept, padded.abs(), 0.0).unflatten(-1, (-1, size))
    sums = magnitude.sum(dim=-1, keepdim=True, dtype=torch.float64)
    counts = _counts(kept, num_inputs=num_inputs, size=size)
    if group_size == "tensor":
        sums = sums.sum(dim=(-3, -2), keepdim=True)
        counts = counts.expand(magnitude[..., :1].shape).sum(dim=(-3, -2), keepdim=True)
    scales = round_to_half((sums / counts.clamp_min(1)).float())
    signed = torch.where(padded.unflatten(-1, (-1, size)) < 0, -scales, scales)
    value = torch.where(kept.unflatten(-1, (-1, size)), signed, 0.0)
    return value.reshape(padded.shape)[..., :num_inputs]


def fake_quantize_sherry(
    weight_OI: Tensor,
    *,
    group_size: GroupSize = GROUP,
    mix: Tensor | None = None,
    arenas: Tensor | None = None,
) -> Tensor:
    """The Sherry value of latent weights, with the straight-through gradient; `arenas` is its λ."""
    latent = weight_OI.float()
    value = straight_through(latent, quantized_sherry(weight_OI, group_size=group_size), mix=mix)
    return value if arenas is None else value + arenas * latent


def arenas_at(share: float) -> float:
    """λ when a share of a run lies behind."""
    return ARENAS_START * max(0.0, 1.0 - share / ARENAS_SHARE)


def use_sherry(module: nn.Module) -> None:
    """Let every ternary matrix below a module have one zero in every four from now on."""
    for child in _matrices(module):
        size = cast(GroupSize, child.group_size)
        if isinstance(size, int) and size % FOUR:
            raise UsageError(f"groups of {size} inputs cut four weights; Sherry needs a multiple of {FOUR}")
        cast(Any, child).weight_form = "sherry"


def set_arenas(module: nn.Module, weight: float | None) -> None:
    """Set λ in all Sherry matrices below a module, in one tensor that they share; None ends it."""
    matrices = [child for child in _matrices(module) if child.weight_form == "sherry"]
    if not matrices:
        return
    present = matrices[0]._buffers["arenas"]
    if weight is not None and present is not None:
        # In place, so that a compiled graph and a captured one see the new value.
        present.fill_(weight)
        return
    shared = None
    if weight is not None:
        shared = torch.tensor(weight, dtype=torch.float32, device=next(matrices[0].parameters()).device)
    for child in matrices:
        child._buffers["arenas"] = shared


def _matrices(module: nn.Module) -> list[nn.Module]:
    """Linear layers and stacked experts; the embedding has no form to choose."""
    return [child for child in module.modules() if "arenas" in child._buffers]


def _kept(size: Tensor) -> Tensor:
    """Which of four magnitudes [..., 4] are not the first smallest one."""
    a, b, c, d = size.unbind(dim=-1)
    second, fourth = b < a, d < c
    later = torch.minimum(c, d) < torch.minimum(a, b)
    zero = (~later & ~second, ~later & second, later & ~fourth, later & fourth)
    return ~torch.stack(zero, dim=-1)


def _counts(kept: Tensor, *, num_inputs: int, size: int) -> Tensor:
    """How many real weights each group keeps, to meet sums [..., groups, 1]."""
    num_groups = kept.shape[-1] // size
    whole = torch.full((num_groups, 1), size * (FOUR - 1) // FOUR, dtype=torch.float64, device=kept.device)
    short = num_inputs % size
    if not short:
        return whole
    last = kept[..., num_inputs - short : num_inputs].sum(dim=-1, keepdim=True, dtype=torch.float64)
    before = whole[:-1].expand(*kept.shape[:-1], num_groups - 1, 1)
    return torch.cat((before, last.unsqueeze(-2)), dim=-2)
