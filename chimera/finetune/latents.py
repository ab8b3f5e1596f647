"""Latent weights for a model that has only its ternary ones.

Training keeps a latent weight behind every code, and a packed file does not hold it. Fine-tuning needs one:
a weight that lies anywhere in its code's range, so that some are near a border and cross it early, some
late. They are drawn here from a fixed seed: zeros evenly inside ±s/2, others beyond s/2 by an excess that
falls off as a normal distribution does, and that is stretched so that the group's mean magnitude is its
scale s. Quantising them gives the codes and scales back, so that fine-tuning begins with the very weights
of the file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.finetune.noise import SPAN, DirectionKey, halves, normal_values
from configs.errors import UsageError

SEED = 0
"""Of the draw. Another one would be another base."""
STEP = PAIR = 0xFFFFFFFF
"""The draw's place among the directions of that seed, where no run gets."""
PIECE = 1 << 18
"""Weights that are drawn at once."""
_ZERO_MARGIN = 1 - 2.0**-8
_SMALLEST_EXCESS = 2.0**-6


@torch.no_grad()
def draw_latents(values_RC: Tensor, *, scale_RG: Tensor, group: int, stream: int) -> Tensor:
    """Latent weights of a matrix of scale × code with groups of so many weights along its rows."""
    num_rows, columns = values_RC.shape
    if scale_RG.shape != (num_rows, -(-columns // group)):
        raise UsageError(
            f"scales of {tuple(scale_RG.shape)} for {num_rows} × {columns} weights in groups of {group}"
        )
    latent_RC = torch.empty_like(values_RC)
    at_once = max(1, PIECE // columns)
    for first in range(0, num_rows, at_once):
        rows = slice(first, min(first + at_once, num_rows))
        latent_RC[rows] = _piece(
            values_RC[rows], scale_RG=scale_RG[rows], group=group, stream=stream, first=first
        )
    return latent_RC


def _piece(values_RC: Tensor, *, scale_RG: Tensor, group: int, stream: int, first: int) -> Tensor:
    rows, columns = values_RC.shape
    spans = -(-columns // SPAN)
    key = DirectionKey(seed=SEED, step=STEP, pair=PAIR)
    drawn_RC = halves(first * spans, rows * spans, stream=stream, key=key).view(rows, -1)[:, :columns]
    # A weight is a zero or another, so that one draw is enough for both.
    even_RC = (drawn_RC.double() * 2 - 65535) / 65536 * (0.5 * _ZERO_MARGIN)
    normal_RC = normal_values(drawn_RC).double().abs().clamp_min(_SMALLEST_EXCESS)

    def by_group(value_RC: Tensor) -> Tensor:
        return F.pad(value_RC, (0, -columns % group)).unflatten(-1, (-1, group))

    codes, real = by_group(torch.sign(values_RC).double()), by_group(torch.ones_like(even_RC))
    inside = torch.where(codes == 0, by_group(even_RC), 0.0)
    excess = torch.where(codes != 0, by_group(normal_RC), 0.0)
    others = codes.abs().sum(dim=-1, keepdim=True)
    # Σ|inside| + others / 2 + stretch · Σ excess = the number of weights: the mean magnitude is one scale.
    needed = real.sum(dim=-1, keepdim=True) - inside.abs().sum(dim=-1, keepdim=True) - others * 0.5
    stretch = needed / excess.sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_EXCESS)
    value = torch.where(codes == 0, inside, codes * (0.5 + stretch * excess))
    # A group of zeros alone has the smallest scale there is, and a mean that any of its weights would change.
    value = torch.where(others > 0, value, 0.0) * scale_RG.double().unsqueeze(-1)
    return value.flatten(-2)[:, :columns].float()
