"""The matrix LSTM as it is written down, token by token, in the type of its inputs.

    m_t = max(f_t + m_{t−1}, i_t)
    C_t = e^{f + m_{t−1} − m_t} C_{t−1} + e^{i − m_t} k_t v_tᵀ         k scaled by K^{−1/2}
    n_t = e^{f + m_{t−1} − m_t} n_{t−1} + e^{i − m_t} k_t
    h_t = C_tᵀ q_t / max(|n_tᵀ q_t|, e^{−m_t}, 1e-6)

f and i are logarithms of the forget and the input gate. xLSTM (Beck et al., 2024), section 2.3.
"""

import torch
from torch import Tensor

from chimera.mixers.mlstm.state import DENOMINATOR_FLOOR, MemoryState


def mlstm_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    log_input_BTH: Tensor,
    log_forget_BTH: Tensor,
    state: MemoryState,
    resets_BT: Tensor | None = None,
) -> tuple[Tensor, MemoryState]:
    """Outputs [B, T, H, V] and the state after the last token. A reset stands for f = −∞."""
    memory, normaliser, log_scale = state
    outputs: list[Tensor] = []
    for t in range(q_BTHK.shape[1]):
        q, k, v = q_BTHK[:, t], k_BTHK[:, t] * k_BTHK.shape[-1] ** -0.5, v_BTHV[:, t]
        log_forget = log_forget_BTH[:, t]
        if resets_BT is not None:
            log_forget = log_forget.masked_fill(resets_BT[:, t, None], -torch.inf)
        faded = log_forget + log_scale
        log_scale = torch.maximum(faded, log_input_BTH[:, t])
        forget, write = (
            (faded - log_scale).exp()[..., None],
            (log_input_BTH[:, t] - log_scale).exp()[..., None],
        )
        normaliser = forget * normaliser + write * k
        memory = forget[..., None] * memory + (write * k)[..., :, None] * v[..., None, :]
        numerator = (memory * q[..., :, None]).sum(dim=-2)
        denominator = (normaliser * q).sum(dim=-1)
        bound = torch.maximum(denominator.abs(), (-log_scale).exp()).clamp_min(DENOMINATOR_FLOOR)
        outputs.append(numerator / bound[..., None])
    return torch.stack(outputs, dim=1), MemoryState(memory, normaliser, log_scale)
