"""The gated delta rule by chunks of C tokens (the WY form): for training and for reading a prompt.

Inside a chunk, with g the running sum of log α and Γ_ij = exp(g_i − g_j) for i ≥ j, else 0:

    A  = stril( diag(b) (K Kᵀ ⊙ Γ) )              X = (I + A)⁻¹
    U  = X diag(c) V        W = X diag(b ⊙ e^g) K        K' = diag(e^{g_C − g}) K
    S' = (e^{g_C} I − K'ᵀ W) S + K'ᵀ U
    O  = diag(e^g) Q S + ((Q Kᵀ) ⊙ Γ) (U − W S)

Only the line for S' runs from chunk to chunk, and it is one product of small matrices. Only differences of g
are exponentiated, and only where they cannot be positive: e^{−g} alone overflows.
Gated Delta Networks (Yang et al., 2025), section 3.3, with the state transposed and two write gates.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chimera.mixers.chunking import chunks_of_gates, chunks_of_vectors, tokens_of_chunks
from chimera.mixers.precision import full_precision, widened
from chimera.mixers.scan import matrix_scan
from chimera.mixers.triangular import unit_lower_inverse


@full_precision
def gated_delta_chunks(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    log_decay_BTH: Tensor,
    erase_BTH: Tensor,
    write_BTH: Tensor,
    state_BHKV: Tensor,
    resets_BT: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, H, V] and the state after the last token."""
    num_tokens = q_BTHK.shape[1]
    size = min(chunk_size, num_tokens)
    q, k, v = (chunks_of_vectors(widened(x), size) for x in (q_BTHK, k_BTHK, v_BTHV))  # [B, H, S, C, K or V]
    log_decay, erase, write = (
        chunks_of_gates(widened(x), size) for x in (log_decay_BTH, erase_BTH, write_BTH)
    )  # [B, H, S, C]
    decays = _decays(log_decay, resets_BT=resets_BT)

    system = (erase.unsqueeze(-1) * (k @ k.mT) * decays.between).tril(-1)
    inverse = unit_lower_inverse(system)
    u = inverse @ (write.unsqueeze(-1) * v)
    w = inverse @ ((erase * decays.since_start).unsqueeze(-1) * k)
    k_left = decays.until_end.unsqueeze(-1) * k

    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    transition = decays.whole[..., None, None] * identity - k_left.mT @ w
    starts, state_BHKV = matrix_scan(transition, k_left.mT @ u, widened(state_BHKV))

    from_past = (decays.since_start.unsqueeze(-1) * q) @ starts
    o = from_past + ((q @ k.mT) * decays.between) @ (u - w @ starts)
    return tokens_of_chunks(o, num_tokens), state_BHKV


class _Decays(NamedTuple):
    """What is left at one place of a chunk of what was written at another; 0 across a document's border."""

    between: Tensor  # [B, H, S, C, C] from token j to token i, 0 for j > i
    since_start: Tensor  # [B, H, S, C] from before the chunk to token i
    until_end: Tensor  # [B, H, S, C] from token j to the chunk's end
    whole: Tensor  # [B, H, S] from before the chunk to its end


def _decays(log_decay: Tensor, *, resets_BT: Tensor | None) -> _Decays:
    size = log_decay.shape[-1]
    g = log_decay.cumsum(dim=-1)
    keep = torch.ones(size, size, dtype=torch.bool, device=g.device).tril()
    since_start, until_end = g.exp(), (g[..., -1:] - g).exp()
    if resets_BT is not None:
        starts = chunks_of_gates(resets_BT.unsqueeze(-1), size).cumsum(
            dim=-1
        )  # documents begun, [B, 1, S, C]
        keep = keep & (starts.unsqueeze(-1) == starts.unsqueeze(-2))
        since_start = since_start * (starts == 0)
        until_end = until_end * (starts == starts[..., -1:])
    # Masked before the exponential: above the diagonal the difference is positive and can overflow.
    between = (g.unsqueeze(-1) - g.unsqueeze(-2)).masked_fill(~keep, -torch.inf).exp()
    return _Decays(between=between, since_start=since_start, until_end=until_end, whole=since_start[..., -1])
