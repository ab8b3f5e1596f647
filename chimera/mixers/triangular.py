"""Inverse of unit lower triangular matrices, I + A, many at once.

Blocks of 8 by forward substitution, then pairs of blocks are merged:

    [ X  0 ]⁻¹   [    X⁻¹        0  ]
    [ C  Y ]   = [ −Y⁻¹ C X⁻¹   Y⁻¹ ]

A batched triangular solve gives the same, but runs far below matrix speed on a GPU. Doubling a Neumann series
over the whole chunk overflows float32 once keys are alike and write gates are near one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8


def unit_lower_inverse(strictly_lower: Tensor) -> Tensor:
    """(I + A)⁻¹ for A of shape [..., n, n] that is zero on and above its diagonal."""
    return _UnitLowerInverse.apply(strictly_lower)


class _UnitLowerInverse(torch.autograd.Function):
    """Keeps the inverse alone for the way back: dA = −Xᵀ dX Xᵀ."""

    @staticmethod
    def forward(strictly_lower: Tensor) -> Tensor:
        return _inverse(strictly_lower)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return -(inverse.mT @ grad_outputs[0] @ inverse.mT).tril(-1)


def _inverse(a: Tensor) -> Tensor:
    size = a.shape[-1]
    if size <= BLOCK:
        return _substitute(a)
    half = BLOCK
    while 2 * half < size:
        half *= 2
    # Zero rows and columns add an identity block, which changes nothing in the corner that is kept.
    padded = F.pad(a, (0, 2 * half - size, 0, 2 * half - size))
    return _merged(padded)[..., :size, :size]


def _merged(a: Tensor) -> Tensor:
    """The inverse where the size is a block's times a power of two."""
    size = a.shape[-1]
    inverse = _substitute(_diagonal_blocks(a, BLOCK))  # [..., size/8, 8, 8]
    while inverse.shape[-1] < size:
        width = inverse.shape[-1]
        corner = _diagonal_blocks(a, 2 * width)[..., width:, :width]
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        # Products of 8 × 8 leave a matrix unit idle; as sums they fuse with what stands around them.
        product = _small_product if width <= BLOCK else torch.matmul
        corner = -product(product(second, corner), first)
        top = F.pad(first, (0, width))
        inverse = torch.cat((top, torch.cat((corner, second), dim=-1)), dim=-2)
    return inverse.squeeze(-3)


def _diagonal_blocks(a: Tensor, width: int) -> Tensor:
    """[..., n, n] → [..., n/width, width, width]."""
    blocks = a.unflatten(-1, (-1, width)).unflatten(-3, (-1, width))  # [..., i, row, j, column]
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _small_product(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(-1) * y.unsqueeze(-3)).sum(dim=-2)


def _substitute(a: Tensor) -> Tensor:
    """Row i of the inverse is e_i − Σ_{j<i} a_ij · row j: plain sums, which compile to one kernel."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    rows = [identity[0].expand(*a.shape[:-1])]
    for i in range(1, a.shape[-1]):
        row = identity[i]
        for j, above in enumerate(rows):
            row = row - a[..., i, j, None] * above
        rows.append(row)
    return torch.stack(rows, dim=-2)
