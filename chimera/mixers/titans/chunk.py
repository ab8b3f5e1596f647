"""The memory by chunks. Inside a chunk all gradients are taken at its first weights: tokens are independent.

With ca and ce the running sums of log(1−α) and log η over a chunk, momentum and memory at its end are

    S' = e^{ce_C} S − Σ_j e^{ce_C − ce_j} θ_j G_j
    M' = e^{ca_C} M + (Σ_t r_t e^{ce_t}) S − Σ_j (Σ_{t≥j} r_t e^{ce_t − ce_j}) θ_j G_j
    r_t = e^{ca_C − ca_t}

and only these lines run from chunk to chunk. Going back through all of them would be as long a chain again,
and gradients through many updates explode. So the values are found once without gradients, and then every
chunk is advanced again, all at once, from the known weights at its start: each such pass lets the gradient of
what a chunk reads reach one chunk further back. `backprop_chunks` counts the passes; None goes back through
everything.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chimera.mixers.precision import full_precision, widened
from chimera.mixers.titans.layout import ChunkLayout
from chimera.mixers.titans.memory import write_gradient
from chimera.mixers.titans.state import FastWeights


class MemoryChunks(NamedTuple):
    """The memory over a batch of chunks."""

    border: Tensor  # [B, H, S, 2, K, K] weights at the start of each chunk
    surprise: Tensor  # [B, H, S, C] norm of each token's gradient before it was clipped
    state: FastWeights


class _Writes(NamedTuple):
    """What the chunks' tokens write, and how much of it is left at the chunk's end."""

    k: Tensor  # [B, H, S, C, K]
    v: Tensor  # [B, H, S, C, K]
    memory_kept: Tensor  # [B, H, S]
    momentum_into_memory: Tensor  # [B, H, S]
    momentum_kept: Tensor  # [B, H, S]
    written: Tensor  # [B, H, S, C, 2] of each token's gradient: in the memory, and in the momentum


class _Ends(NamedTuple):
    """Chunks after their last token."""

    memory: Tensor  # [B, H, S, 2, K, K]
    momentum: Tensor  # [B, H, S, 2, K, K]
    squared_norm: Tensor  # [B, H, S, C]


@full_precision
def memory_chunks(
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    log_keep_BTH: Tensor,  # log(1 − α)
    log_momentum_BTH: Tensor,  # log η
    rate_BTH: Tensor,  # θ
    state: FastWeights,
    initial: Tensor,  # [H, 2, K, K] weights before a document
    layout: ChunkLayout,
    backprop_chunks: int | None = 2,
    gradient_bound: float = 1.0,
) -> MemoryChunks:
    """Write every token; what the tokens of a chunk read is its border."""
    k, v = layout.to_chunks(widened(k_BTHK)), layout.to_chunks(widened(v_BTHV))
    gates = torch.stack((widened(log_keep_BTH), widened(log_momentum_BTH), widened(rate_BTH)), dim=-1)
    writes = _writes(k, v, layout.to_chunks(gates), filled=layout.filled_BSC.unsqueeze(1))
    past = FastWeights(*map(widened, state))
    if backprop_chunks is None or not torch.is_grad_enabled():
        starts, ends = _in_order(writes, past=past, initial=initial, layout=layout, bound=gradient_bound)
    else:
        with torch.no_grad():
            starts, ends = _in_order(writes, past=past, initial=initial, layout=layout, bound=gradient_bound)
        for _ in range(backprop_chunks):
            ends = _advance(starts, writes, bound=gradient_bound)
            starts = _starts(ends, past=past, initial=initial, layout=layout)
    return MemoryChunks(
        border=starts.border,
        surprise=ends.squared_norm.detach().sqrt(),
        state=FastWeights(*map(layout.last_chunk, (starts.border, ends.memory, ends.momentum))),
    )


def _writes(k: Tensor, v: Tensor, gates: Tensor, *, filled: Tensor) -> _Writes:
    """`gates` [B, H, S, C, 3] are log(1−α), log η and θ, all 0 in slots without a token."""
    log_keep, log_momentum, rate = gates.unbind(dim=-1)
    kept, pushed = log_keep.cumsum(dim=-1), log_momentum.cumsum(dim=-1)
    until_end = (kept[..., -1:] - kept).exp() * filled  # r_t; an empty slot is no step of the memory
    lower = torch.ones(k.shape[-2], k.shape[-2], dtype=torch.bool, device=k.device).tril()
    between = (pushed.unsqueeze(-1) - pushed.unsqueeze(-2)).masked_fill(~lower, -torch.inf).exp()
    in_memory = (until_end.unsqueeze(-2) @ between).squeeze(-2)
    in_momentum = between[..., -1, :]
    return _Writes(
        k=k,
        v=v,
        memory_kept=kept[..., -1].exp(),
        momentum_into_memory=(until_end * pushed.exp()).sum(dim=-1),
        momentum_kept=pushed[..., -1].exp(),
        written=rate.unsqueeze(-1) * torch.stack((in_memory, in_momentum), dim=-1),
    )


def _advance(starts: FastWeights, writes: _Writes, *, bound: float) -> _Ends:
    """Chunks from their starts to their ends, for one chunk [B, H, ...] or for all [B, H, S, ...]."""
    gradient = write_gradient(starts.border, k=writes.k, v=writes.v)
    clip = bound * gradient.squared_norm.clamp_min(bound * bound).rsqrt()
    weight = (writes.written * clip.unsqueeze(-1)).unsqueeze(-3).unsqueeze(-1)  # [..., 1, C, 2, 1]
    # One product for both sums: the memory's rows above the momentum's.
    left = (weight * gradient.left.unsqueeze(-2)).flatten(-2)  # [..., 2, C, 2K]
    to_memory, to_momentum = (left.mT @ gradient.right).chunk(2, dim=-2)

    memory_kept, into_memory, momentum_kept = (
        x[..., None, None, None]
        for x in (writes.memory_kept, writes.momentum_into_memory, writes.momentum_kept)
    )
    return _Ends(
        memory=memory_kept * starts.memory + into_memory * starts.momentum - to_memory,
        momentum=momentum_kept * starts.momentum - to_momentum,
        squared_norm=gradient.squared_norm,
    )


def _in_order(
    writes: _Writes, *, past: FastWeights, initial: Tensor, layout: ChunkLayout, bound: float
) -> tuple[FastWeights, _Ends]:
    """All chunks one after another."""
    starts: list[FastWeights] = []
    ends: list[_Ends] = []
    memory, momentum = past.memory, past.momentum
    for chunk in range(writes.k.shape[2]):
        if layout.starts_document_BS is not None:
            resets = layout.starts_document_BS[:, chunk, None, None, None, None]
            memory, momentum = torch.where(resets, initial, memory), torch.where(resets, 0.0, momentum)
        border = _first_border(memory, past=past, layout=layout) if chunk == 0 else memory
        starts.append(FastWeights(border=border, memory=memory, momentum=momentum))
        ends.append(_advance(starts[-1], _Writes(*(x[:, :, chunk] for x in writes)), bound=bound))
        memory, momentum = ends[-1].memory, ends[-1].momentum
    return (
        FastWeights(*(torch.stack(parts, dim=2) for parts in zip(*starts, strict=True))),
        _Ends(*(torch.stack(parts, dim=2) for parts in zip(*ends, strict=True))),
    )


def _starts(ends: _Ends, *, past: FastWeights, initial: Tensor, layout: ChunkLayout) -> FastWeights:
    """Every chunk's start from the end of the chunk before it."""
    memory = torch.cat((past.memory.unsqueeze(2), ends.memory[:, :, :-1]), dim=2)
    momentum = torch.cat((past.momentum.unsqueeze(2), ends.momentum[:, :, :-1]), dim=2)
    if layout.starts_document_BS is not None:
        resets = layout.starts_document_BS[:, None, :, None, None, None]
        memory = torch.where(resets, initial.unsqueeze(1), memory)
        momentum = torch.where(resets, 0.0, momentum)
    first = _first_border(memory[:, :, 0], past=past, layout=layout).unsqueeze(2)
    return FastWeights(border=torch.cat((first, memory[:, :, 1:]), dim=2), memory=memory, momentum=momentum)


def _first_border(memory: Tensor, *, past: FastWeights, layout: ChunkLayout) -> Tensor:
    """The first chunk may go on from a border that lies before this row."""
    if layout.starts_at_border_B is None:
        return memory
    return torch.where(layout.starts_at_border_B[:, None, None, None, None], memory, past.border)
