"""States at the chunks' starts, from what each chunk does to a state.

    matrix_scan:  S_{c+1} = P_c S_c + Q_c        P_c a matrix
    decay_scan:   S_{c+1} = a_c S_c + Q_c        a_c a number

What depends on tokens is computed for every chunk at once, so that one small product per chunk is left here.
"""

from typing import Any

import torch
from torch import Tensor


def matrix_scan(
    transition: Tensor,  # [B, H, S, K, K]
    update: Tensor,  # [B, H, S, K, V]
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """States before each chunk, [B, H, S, K, V], and the state after the last."""
    heads = state_BHKV.shape[:2]
    starts, last = _MatrixScan.apply(transition.flatten(0, 1), update.flatten(0, 1), state_BHKV.flatten(0, 1))
    return starts.unflatten(0, heads), last.unflatten(0, heads)


class _MatrixScan(torch.autograd.Function):
    """One product per chunk on the way back too; autograd by itself would need two and a sum."""

    @staticmethod
    def forward(transition: Tensor, update: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        starts: list[Tensor] = []
        for chunk in range(transition.shape[1]):
            starts.append(state)
            state = torch.baddbmm(update[:, chunk], transition[:, chunk], state)
        return torch.stack(starts, dim=1), state

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        transition, starts = ctx.saved_tensors
        grad_starts, grad = grad_outputs
        grads_update = [grad]
        for chunk in range(transition.shape[1] - 1, -1, -1):
            grad = torch.baddbmm(grad_starts[:, chunk], transition[:, chunk].mT, grad)
            grads_update.append(grad)
        grad_update = torch.stack(grads_update[-2::-1], dim=1)
        return grad_update @ starts.mT, grad_update, grad


def decay_scan(
    decay: Tensor,  # [B, H, S]
    update: Tensor,  # [B, H, S, ...]
    state: Tensor,  # [B, H, ...]
) -> tuple[Tensor, Tensor]:
    """States before each chunk, [B, H, S, ...], and the state after the last."""
    decay = decay.reshape(*decay.shape, *(1,) * (update.dim() - decay.dim()))
    starts: list[Tensor] = []
    for chunk in range(update.shape[2]):
        starts.append(state)
        state = torch.addcmul(update[:, :, chunk], decay[:, :, chunk], state)
    return torch.stack(starts, dim=2), state
