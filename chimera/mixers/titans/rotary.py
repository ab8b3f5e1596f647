"""Rotary positions: a vector's halves as the parts of complex numbers, turned by position × frequency.

Angles are formed in float64, so that a stream of millions of tokens keeps turning as exactly as a short one.
RoFormer (Su et al., 2021), in the half-split order.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines of the angles of some positions, [..., K/2]."""

    cos: Tensor
    sin: Tensor


def rotation(position: Tensor, *, head_dim: int, theta: float) -> Rotation:
    """The turn of each position [...]; channel i of K/2 turns by theta^(−2i/K) a token."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device=position.device) / head_dim
    angle = position.unsqueeze(-1) * theta**-exponent
    return Rotation(cos=angle.cos(), sin=angle.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """x [..., K] turned; its length stays."""
    cos, sin = by.cos.to(x.dtype), by.sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
