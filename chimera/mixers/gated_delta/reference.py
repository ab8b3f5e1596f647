"""The gated delta rule as it is written down, token by token, in the type of its inputs.

    S_t = α_t (I − b_t k_t k_tᵀ) S_{t−1} + c_t k_t v_tᵀ        o_t = S_tᵀ q_t

b is the erase gate and c the write gate. They are one number β in the delta rule, two in its exact flow
(`exact_flow.py`).
Gated Delta Networks (Yang et al., 2025), section 3, with the state transposed: keys before values.
"""

import torch
from torch import Tensor


def gated_delta_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    log_decay_BTH: Tensor,
    erase_BTH: Tensor,
    write_BTH: Tensor,
    state_BHKV: Tensor,
    resets_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, H, V] and the state after the last token. A reset stands for α = 0."""
    identity = torch.eye(k_BTHK.shape[-1], dtype=k_BTHK.dtype, device=k_BTHK.device)
    outputs: list[Tensor] = []
    for t in range(q_BTHK.shape[1]):
        k, v = k_BTHK[:, t, :, :, None], v_BTHV[:, t, :, None, :]  # columns and rows
        alpha, erase, write = (
            gate[:, t, :, None, None] for gate in (log_decay_BTH.exp(), erase_BTH, write_BTH)
        )
        if resets_BT is not None:
            alpha = alpha * (~resets_BT[:, t, None, None, None]).to(alpha.dtype)
        state_BHKV = alpha * (identity - erase * k @ k.mT) @ state_BHKV + write * k @ v
        outputs.append((state_BHKV.mT @ q_BTHK[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1), state_BHKV
