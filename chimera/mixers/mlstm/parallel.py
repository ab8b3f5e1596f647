"""The matrix LSTM over all tokens at once: quadratic in their number, the form that the paper derives first.

L_ij = F_i − F_j + i_j for i ≥ j, else −∞        F the running sum of f
M_i  = max(max_j L_ij, F_i + m_0)
P    = (Q Kᵀ/√K) ⊙ e^{L − M}
h_i  = (P V + e^{F + m_0 − M} Q C_0)_i / max(|Σ_j P_ij + e^{F_i + m_0 − M_i} q_iᵀ n_0|, e^{−M_i}, 1e-6)
"""

import torch
from torch import Tensor

from chimera.mixers.mlstm.state import MemoryState, read
from chimera.mixers.packing import document_of
from chimera.mixers.precision import full_precision, widened


@full_precision
def mlstm_parallel(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    log_input_BTH: Tensor,
    log_forget_BTH: Tensor,
    state: MemoryState,
    resets_BT: Tensor | None = None,
) -> tuple[Tensor, MemoryState]:
    """Outputs [B, T, H, V] and the state after the last token."""
    q, k, v = (widened(x).transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHV))  # [B, H, T, K or V]
    log_input, log_forget = (widened(x).transpose(1, 2) for x in (log_input_BTH, log_forget_BTH))  # [B, H, T]
    memory, normaliser, log_scale = map(widened, state)
    k = k * k.shape[-1] ** -0.5
    num_tokens = q.shape[2]

    total = log_forget.cumsum(dim=-1)
    from_state = total + log_scale.unsqueeze(-1)
    keep = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=q.device).tril()
    if resets_BT is not None:
        document = document_of(resets_BT).unsqueeze(1)
        keep = keep & (document.unsqueeze(-1) == document.unsqueeze(-2))
        from_state = from_state.masked_fill(document > 0, -torch.inf)
    log_weight = (total.unsqueeze(-1) - total.unsqueeze(-2) + log_input.unsqueeze(-2)).masked_fill(
        ~keep, -torch.inf
    )
    scale = torch.maximum(log_weight.amax(dim=-1), from_state).detach()

    weight = (log_weight - scale.unsqueeze(-1)).exp()
    past = (from_state - scale).exp()
    scores = (q @ k.mT) * weight
    numerator = scores @ v + past.unsqueeze(-1) * (q @ memory)
    denominator = scores.sum(dim=-1) + past * (q @ normaliser.unsqueeze(-1)).squeeze(-1)
    h = read(numerator, denominator, log_scale=scale).transpose(1, 2)

    written = weight[..., -1, :, None] * k  # what is left of each token at the end
    past_end = past[..., -1, None]
    return h, MemoryState(
        memory_BHKV=past_end.unsqueeze(-1) * memory + written.mT @ v,
        normaliser_BHK=past_end * normaliser + written.sum(dim=-2),
        log_scale_BH=scale[..., -1],
    )
