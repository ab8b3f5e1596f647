"""Held ternary weights, scale × code, back to scales and codes, and to latent weights that give them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.finetune.latents import draw_latents
from chimera.finetune.trained import columns_of_group
from chimera.mixers.table import group_size
from configs.errors import ModelError
from configs.schema.model import ModelConfig
from quant.ternary import SMALLEST_MEAN


def latents_of(values_RC: Tensor, *, name: str, config: ModelConfig, stream: int) -> Tensor:
    """Latent weights that quantise to these values."""
    columns = values_RC.shape[1]
    group = columns_of_group(group_size(config), columns=columns)
    if group is None:
        flat = _drawn(values_RC.reshape(1, -1), group=values_RC.numel(), name=name, stream=stream)
        return flat.view_as(values_RC)
    return _drawn(values_RC, group=group, name=name, stream=stream)


def _drawn(values_RC: Tensor, *, group: int, name: str, stream: int) -> Tensor:
    scale_RG = scales_of(values_RC, group=group, name=name)
    return draw_latents(values_RC, scale_RG=scale_RG, group=group, stream=stream)


def scales_of(values_RC: Tensor, *, group: int, name: str) -> Tensor:
    """The scale of every group, checked: each of its weights is it, its negative, or zero."""
    by_group = F.pad(values_RC, (0, -values_RC.shape[1] % group)).unflatten(-1, (-1, group)).abs()
    scale = by_group.amax(dim=-1, keepdim=True)
    if not bool(((by_group == 0) | (by_group == scale)).all()):
        raise ModelError(
            f"{name} has groups of {group} weights with more than one magnitude, so they are not ternary",
            hint="The folder says that its weights were packed, but they were changed since.",
        )
    least = torch.tensor(SMALLEST_MEAN).half().float()
    return scale.squeeze(-1).clamp_min(least)
