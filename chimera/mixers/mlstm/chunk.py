"""The matrix LSTM by chunks of C tokens: for training and for reading a prompt.

Inside a chunk it is the parallel form (`parallel.py`) with the chunk's first state for C_0, n_0 and m_0.
Between chunks, with F the running sum of f inside the chunk:

    m' = max(F_C + m, max_j(F_C − F_j + i_j))
    C' = e^{F_C + m − m'} C + Σ_j e^{F_C − F_j + i_j − m'} k_j v_jᵀ        and the same for n

m runs over the chunks first, a number a head; then every sum over tokens is formed for all chunks at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chimera.mixers.chunking import chunks_of_gates, chunks_of_vectors, tokens_of_chunks
from chimera.mixers.mlstm.state import MemoryState, read
from chimera.mixers.precision import full_precision, widened
from chimera.mixers.scan import decay_scan


@full_precision
def mlstm_chunks(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    log_input_BTH: Tensor,
    log_forget_BTH: Tensor,
    state: MemoryState,
    resets_BT: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, MemoryState]:
    """Outputs [B, T, H, V] and the state after the last token."""
    num_tokens = q_BTHK.shape[1]
    size = min(chunk_size, num_tokens)
    q, k, v = (chunks_of_vectors(widened(x), size) for x in (q_BTHK, k_BTHK, v_BTHV))  # [B, H, S, C, K or V]
    k = k * k.shape[-1] ** -0.5
    # The tokens that fill the last chunk fade nothing and write nothing.
    log_forget = chunks_of_gates(widened(log_forget_BTH), size)  # [B, H, S, C]
    log_input = chunks_of_gates(widened(log_input_BTH), size, fill=-torch.inf)
    logs = _log_weights(log_input, log_forget, resets_BT=resets_BT)
    memory, normaliser, log_scale = map(widened, state)

    scale_start, scale_end = _scales(logs, log_scale)  # [B, H, S]
    fade = (logs.whole + scale_start - scale_end).exp()
    k_left = (logs.until_end - scale_end.unsqueeze(-1)).exp().unsqueeze(-1) * k
    memories, memory = decay_scan(fade, k_left.mT @ v, memory)
    normalisers, normaliser = decay_scan(fade, k_left.sum(dim=-2), normaliser)

    from_state = logs.since_start + scale_start.unsqueeze(-1)
    scale = torch.maximum(logs.between.amax(dim=-1), from_state).detach()  # [B, H, S, C]
    past = (from_state - scale).exp()
    scores = (q @ k.mT) * (logs.between - scale.unsqueeze(-1)).exp()
    numerator = scores @ v + past.unsqueeze(-1) * (q @ memories)
    denominator = scores.sum(dim=-1) + past * (q @ normalisers.unsqueeze(-1)).squeeze(-1)
    h = read(numerator, denominator, log_scale=scale)
    return tokens_of_chunks(h, num_tokens), MemoryState(
        memory_BHKV=memory, normaliser_BHK=normaliser, log_scale_BH=scale_end[..., -1]
    )


class _LogWeights(NamedTuple):
    """Logarithms of what is left at one place of what was at another; −∞ across a document's border."""

    between: Tensor  # [B, H, S, C, C] of token j's write at token i
    since_start: Tensor  # [B, H, S, C] of the chunk's first state at token i
    until_end: Tensor  # [B, H, S, C] of token j's write at the chunk's end
    whole: Tensor  # [B, H, S] of the chunk's first state at its end


def _log_weights(log_input: Tensor, log_forget: Tensor, *, resets_BT: Tensor | None) -> _LogWeights:
    size = log_forget.shape[-1]
    total = log_forget.cumsum(dim=-1)
    keep = torch.ones(size, size, dtype=torch.bool, device=total.device).tril()
    since_start = total
    if resets_BT is not None:
        starts = chunks_of_gates(resets_BT.unsqueeze(-1), size, fill=False).cumsum(dim=-1)  # [B, 1, S, C]
        keep = keep & (starts.unsqueeze(-1) == starts.unsqueeze(-2))
        since_start = since_start.masked_fill(starts > 0, -torch.inf)
    between = total.unsqueeze(-1) - total.unsqueeze(-2) + log_input.unsqueeze(-2)
    between = between.masked_fill(~keep, -torch.inf)
    return _LogWeights(
        between=between, since_start=since_start, until_end=between[..., -1, :], whole=since_start[..., -1]
    )


def _scales(logs: _LogWeights, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """m before and after each chunk. It only keeps numbers in range: nothing is to be learnt through it."""
    whole, largest_write = logs.whole.detach(), logs.until_end.detach().amax(dim=-1)
    scale, scales = log_scale.detach(), [log_scale.detach()]
    for chunk in range(whole.shape[-1]):
        scale = torch.maximum(whole[..., chunk] + scale, largest_write[..., chunk])
        scales.append(scale)
    stacked = torch.stack(scales, dim=-1)
    return stacked[..., :-1], stacked[..., 1:]
