"""One token of the memory: read at the weights of the chunk's start, write with momentum and forgetting."""

from typing import NamedTuple

import torch
from torch import Tensor

from chimera.mixers.precision import full_precision, widened
from chimera.mixers.titans.memory import write_gradient
from chimera.mixers.titans.state import FastWeights


class MemoryStep(NamedTuple):
    """The memory after one token."""

    state: FastWeights
    surprise_BH: Tensor  # norm of the gradient before it was clipped


def enter_chunk(state: FastWeights, *, position_B: Tensor, memory_chunk: int) -> FastWeights:
    """At a border the running memory becomes the one that is read."""
    at_border = (position_B % memory_chunk == 0)[:, None, None, None, None]
    return state._replace(border=torch.where(at_border, state.memory, state.border))


@full_precision
def memory_step(
    k_BHK: Tensor,
    v_BHV: Tensor,
    *,
    log_keep_BH: Tensor,  # log(1 − α)
    log_momentum_BH: Tensor,  # log η
    rate_BH: Tensor,  # θ
    state: FastWeights,  # of the token's chunk: `enter_chunk` comes first
    gradient_bound: float = 1.0,
) -> MemoryStep:
    """Write one token."""
    border, memory, momentum = map(widened, state)
    gradient = write_gradient(border, k=widened(k_BHK).unsqueeze(-2), v=widened(v_BHV).unsqueeze(-2))
    clip = gradient_bound * gradient.squared_norm.clamp_min(gradient_bound * gradient_bound).rsqrt()
    keep, pushed, rate = (
        widened(x)[..., None, None, None] for x in (log_keep_BH.exp(), log_momentum_BH.exp(), rate_BH)
    )
    momentum = pushed * momentum - rate * clip[..., None, None] * (gradient.left.mT @ gradient.right)
    memory = keep * memory + momentum
    return MemoryStep(
        state=FastWeights(border=border, memory=memory, momentum=momentum),
        surprise_BH=gradient.squared_norm.detach().sqrt().squeeze(-1),
    )
