"""One token of the matrix LSTM."""

import torch
from torch import Tensor

from chimera.mixers.mlstm.state import MemoryState, read
from chimera.mixers.precision import full_precision, widened


@full_precision
def mlstm_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    *,
    log_input_BH: Tensor,
    log_forget_BH: Tensor,
    state: MemoryState,
) -> tuple[Tensor, MemoryState]:
    """The output [B, H, V] and the new state."""
    q_BHK, k_BHK, v_BHV, log_input_BH, log_forget_BH, memory, normaliser, log_scale = map(
        widened, (q_BHK, k_BHK, v_BHV, log_input_BH, log_forget_BH, *state)
    )
    k_BHK = k_BHK * k_BHK.shape[-1] ** -0.5
    faded = log_forget_BH + log_scale
    # The output does not depend on m, which only keeps numbers in range: nothing is to be learnt through it.
    new_scale = torch.maximum(faded, log_input_BH).detach()
    forget = (faded - new_scale).exp()
    written_BHK = (log_input_BH - new_scale).exp().unsqueeze(-1) * k_BHK
    normaliser = forget.unsqueeze(-1) * normaliser + written_BHK
    memory = forget[..., None, None] * memory + written_BHK.unsqueeze(-1) * v_BHV.unsqueeze(-2)
    numerator = torch.einsum("bhk,bhkv->bhv", q_BHK, memory)
    denominator = (q_BHK * normaliser).sum(dim=-1)
    return read(numerator, denominator, log_scale=new_scale), MemoryState(memory, normaliser, new_scale)
