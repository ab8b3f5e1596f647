"""One token of the gated delta rule: gradient descent on ½‖Sᵀk − v‖² after the state has decayed."""

import torch
from torch import Tensor

from chimera.mixers.precision import full_precision, widened


@full_precision
def gated_delta_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    *,
    log_decay_BH: Tensor,
    erase_BH: Tensor,
    write_BH: Tensor,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """The output [B, H, V] and the new state."""
    q_BHK, k_BHK, v_BHV, log_decay_BH, erase_BH, write_BH, state_BHKV = map(
        widened, (q_BHK, k_BHK, v_BHV, log_decay_BH, erase_BH, write_BH, state_BHKV)
    )
    decayed = log_decay_BH.exp()[..., None, None] * state_BHKV
    recalled_BHV = torch.einsum("bhk,bhkv->bhv", k_BHK, decayed)
    written_BHV = write_BH.unsqueeze(-1) * v_BHV - erase_BH.unsqueeze(-1) * recalled_BHV
    state_BHKV = decayed + k_BHK.unsqueeze(-1) * written_BHV.unsqueeze(-2)
    return torch.einsum("bhk,bhkv->bhv", q_BHK, state_BHKV), state_BHKV
