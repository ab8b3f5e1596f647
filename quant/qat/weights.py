"""Ternary weights in training: the numbers of `quant.ternary`, on any device, with a gradient.

The scale must have the value of its float16 form, but no tensor here has that type: compilers keep halves in
float32 registers and drop the rounding. It is done on the bits instead, which nothing optimises away. For the
same reason a code is a comparison and not a division: |w| > s/2 is clip(rint(w/s)) without the division that
GPUs round in their own way. So what was trained is what is exported, whatever trained it; the one thing left
is the order of a float64 sum, which float16 hides.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from quant.qat.straight_through import straight_through
from quant.ternary import GROUP, SMALLEST_MEAN, GroupSize

DEEP_ZERO = 0.3
SOFT_CLIP = 3.0
_SMALLEST_NORMAL_HALF = 2.0**-14


def ternary_scales(weight_OI: Tensor, *, group_size: GroupSize = GROUP) -> Tensor:
    """Every group's scale, float32 with a float16's value: [..., rows, groups], or [..., 1, 1] per tensor."""
    magnitude = weight_OI.detach().abs()
    if group_size == "tensor":
        means = magnitude.mean(dim=(-2, -1), keepdim=True, dtype=torch.float64)
    elif group_size == "row":
        means = magnitude.mean(dim=-1, keepdim=True, dtype=torch.float64)
    else:
        grouped = _grouped(magnitude, group_size=group_size)
        means = grouped.sum(dim=-1, dtype=torch.float64) / group_size
        short = magnitude.shape[-1] % group_size
        if short:
            last = magnitude[..., -short:].mean(dim=-1, keepdim=True, dtype=torch.float64)
            means = torch.cat([means[..., :-1], last], dim=-1)
    return round_to_half(means.clamp_min(SMALLEST_MEAN).float())


def round_to_half(positive: Tensor) -> Tensor:
    """float32 rounded to float16's grid, half to even, for positive values below float16's overflow."""
    bits = positive.view(torch.int32)
    normal = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    subnormal = torch.round(positive * 2.0**24) * 2.0**-24
    return torch.where(positive < _SMALLEST_NORMAL_HALF, subnormal, normal)


def quantized_weight(weight_OI: Tensor, *, group_size: GroupSize = GROUP) -> Tensor:
    """s × code in float32, without a gradient. Leading axes, as of stacked experts, are free."""
    weight_OI = weight_OI.detach().float()
    scales = ternary_scales(weight_OI, group_size=group_size)
    grouped = weight_OI if isinstance(group_size, str) else _grouped(weight_OI, group_size=group_size)
    scales = scales if isinstance(group_size, str) else scales.unsqueeze(-1)
    half = scales * 0.5
    zero = torch.zeros_like(scales)
    value = torch.where(grouped > half, scales, torch.where(grouped < -half, -scales, zero))
    return value.reshape(*weight_OI.shape[:-1], -1)[..., : weight_OI.shape[-1]]


def fake_quantize_weight(
    weight_OI: Tensor,
    *,
    group_size: GroupSize = GROUP,
    mix: Tensor | None = None,
    mask_deep_zeros: bool = False,
) -> Tensor:
    """The ternary value of latent weights, with the straight-through gradient; `mix` is the gradual λ."""
    latent = weight_OI.float()
    if mask_deep_zeros:
        spread = _spread(ternary_scales(latent, group_size=group_size), latent, group_size=group_size)
        latent = torch.where(latent.detach().abs() >= DEEP_ZERO * spread, latent, latent.detach())
    return straight_through(latent, quantized_weight(weight_OI, group_size=group_size), mix=mix)


def warn_of_deep_zero_masking() -> None:
    """Say what masking costs; called where somebody turns it on."""
    warnings.warn(
        f"mask_deep_zeros stops the gradient of weights below {DEEP_ZERO} of their group's scale. "
        "They cannot leave that range by learning any more, only by weight decay or a change of the scale: "
        "they are trapped at zero.",
        UserWarning,
        stacklevel=3,
    )


@torch.no_grad()
def soft_clip_(weight_OI: Tensor, *, group_size: GroupSize = GROUP, limit: float = SOFT_CLIP) -> Tensor:
    """In place, after an optimiser step: w ← c tanh(w / c), with c = `limit` times the group's scale.

    It bounds an outlier that would stretch its group's scale, and is the identity to third order near zero.
    """
    scales = ternary_scales(weight_OI.float(), group_size=group_size)
    bound = _spread(scales, weight_OI, group_size=group_size) * limit
    return weight_OI.copy_(torch.tanh(weight_OI / bound) * bound)


def _grouped(weight_OI: Tensor, *, group_size: int) -> Tensor:
    """[..., rows, groups, group], a short last group filled up with zeros."""
    missing = -weight_OI.shape[-1] % group_size
    padded = F.pad(weight_OI, (0, missing)) if missing else weight_OI
    return padded.unflatten(-1, (-1, group_size))


def _spread(scales: Tensor, weight_OI: Tensor, *, group_size: GroupSize) -> Tensor:
    """Each group's scale in a form that meets every weight."""
    if isinstance(group_size, str):
        return scales
    return scales.repeat_interleave(group_size, dim=-1)[..., : weight_OI.shape[-1]]
