"""The memory token by token, with gradients by automatic differentiation, in the type of its inputs.

    G_t = ∇ ½‖M(k_t) − v_t‖² at the weights of the chunk's start, clipped in norm
    S_t = η_t S_{t−1} − θ_t G_t          momentum of surprise
    M_t = (1 − α_t) M_{t−1} + S_t        forgetting

A chunk begins where a token's position is a multiple of the chunk's size, at absolute positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chimera.mixers.titans.memory import read_memory
from chimera.mixers.titans.state import FastWeights


class MemoryTrace(NamedTuple):
    """What the memory was and did at every token."""

    border: Tensor  # [B, T, H, 2, K, K] weights at the start of the token's chunk
    surprise_BTH: Tensor  # norm of the gradient before it was clipped
    state: FastWeights


def memory_reference(
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    log_keep_BTH: Tensor,  # log(1 − α)
    log_momentum_BTH: Tensor,  # log η
    rate_BTH: Tensor,  # θ
    state: FastWeights,
    initial: Tensor,  # [H, 2, K, K] weights before a document
    position_B: Tensor,
    memory_chunk: int,
    resets_BT: Tensor | None = None,
    gradient_bound: float = 1.0,
) -> MemoryTrace:
    """Write every token, in order."""

    def loss(weights: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return 0.5 * (read_memory(weights, k.unsqueeze(0)).squeeze(0) - v).square().sum()

    gradient = torch.func.vmap(torch.func.vmap(torch.func.grad(loss)))  # over rows and heads
    border, memory, momentum = state
    borders: list[Tensor] = []
    surprises: list[Tensor] = []
    for t in range(k_BTHK.shape[1]):
        if resets_BT is not None:
            reset = resets_BT[:, t]
            position_B = torch.where(reset, 0, position_B)
            reset = reset[:, None, None, None, None]
            memory, momentum = torch.where(reset, initial, memory), torch.where(reset, 0.0, momentum)
        at_border = (position_B % memory_chunk == 0)[:, None, None, None, None]
        border = torch.where(at_border, memory, border)
        grad = gradient(border, k_BTHK[:, t], v_BTHV[:, t])
        norm = grad.flatten(2).norm(dim=-1)
        clip = gradient_bound / norm.clamp_min(gradient_bound)
        rate, keep, momentum_kept = (
            x[:, t, :, None, None, None] for x in (rate_BTH, log_keep_BTH.exp(), log_momentum_BTH.exp())
        )
        momentum = momentum_kept * momentum - rate * clip[..., None, None, None] * grad
        memory = keep * memory + momentum
        position_B = position_B + 1
        borders.append(border)
        surprises.append(norm)
    return MemoryTrace(
        border=torch.stack(borders, dim=1),
        surprise_BTH=torch.stack(surprises, dim=1),
        state=FastWeights(border, memory, momentum),
    )
