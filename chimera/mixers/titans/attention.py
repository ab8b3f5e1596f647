"""Attention over a window of tokens, the chunk's memory tokens and the persistent slots, under one softmax.

Token t sees
    every persistent slot                                    learned key and value, no position
    the memory tokens h_j of its own chunk with j ≤ t        no position
    the last W tokens of its document, itself among them     keys and query rotated by position
with scores scale · (q · k). The window is cut into blocks of queries, each with the W tokens before it, so
that the work grows with the text and not with its square. Products may run in bfloat16; the softmax does not.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.mixers.precision import widened
from chimera.mixers.titans.layout import ChunkLayout
from chimera.mixers.titans.state import AttentionState

QUERY_BLOCK = 256


class Tokens(NamedTuple):
    """Queries, keys and values of some tokens, heads first. Queries are already multiplied by the scale."""

    q_BHTK: Tensor
    rotated_q_BHTK: Tensor
    rotated_k_BHTK: Tensor
    v_BHTV: Tensor


class MemoryTokens(NamedTuple):
    """What the memory answered to the tokens of each chunk."""

    keys: Tensor  # [B, H, S, C, K]
    values: Tensor  # [B, H, S, C, V]
    filled_BSC: Tensor


class Slots(NamedTuple):
    """The persistent slots."""

    keys_HPK: Tensor
    values_HPV: Tensor


class Past(NamedTuple):
    """The tokens before a row, the oldest first."""

    keys: Tensor  # [B, H, W, K]
    values: Tensor  # [B, H, W, V]
    valid_BW: Tensor


def attend(
    tokens: Tokens,
    *,
    memory: MemoryTokens,
    slots: Slots,
    past: Past | None,
    document_BT: Tensor,  # number of each token's document in its row, 0 for the one that the past belongs to
    layout: ChunkLayout,
    window: int,
    block: int = QUERY_BLOCK,
) -> Tensor:
    """What every token sees, [B, T, H, V]."""
    num_tokens = tokens.q_BHTK.shape[2]
    block = min(block, num_tokens)
    lead = _lead(num_tokens, block=block, window=window, has_past=past is not None)
    keys, values, documents = _with_lead(tokens, past=past, document_BT=document_BT, lead=lead)

    queries = _blocks(tokens.rotated_q_BHTK, block)  # [B, H, blocks, block, K]
    visible = _visible(document_BT, documents, block=block, lead=lead, window=window)
    in_window = widened(queries @ _windows(keys, block=block, lead=lead).mT).masked_fill(~visible, -torch.inf)
    in_slots = widened(tokens.q_BHTK @ slots.keys_HPK.mT)
    in_memory = widened(layout.to_chunks(tokens.q_BHTK.transpose(1, 2)) @ memory.keys.mT)
    lower = torch.ones(in_memory.shape[-2:], dtype=torch.bool, device=in_memory.device).tril()
    in_memory = in_memory.masked_fill(~(memory.filled_BSC[:, None, :, None] & lower), -torch.inf)

    # The largest score only keeps the exponentials in range; a softmax does not depend on it.
    top_BHT = torch.maximum(
        in_window.amax(dim=-1).flatten(2)[:, :, :num_tokens],
        layout.to_tokens(in_memory.amax(dim=-1, keepdim=True)).squeeze(-1).transpose(1, 2),
    )
    if slots.keys_HPK.shape[1] > 0:
        top_BHT = torch.maximum(top_BHT, in_slots.amax(dim=-1))
    top = top_BHT.detach().unsqueeze(-1)
    in_window = (in_window - _blocks(top, block)).exp()
    in_memory = (in_memory - layout.to_chunks(top.transpose(1, 2))).exp()
    in_slots = (in_slots - top).exp()

    from_window = widened(in_window @ _windows(values, block=block, lead=lead))
    from_window = from_window.flatten(2, 3)[:, :, :num_tokens]
    from_slots, from_memory = widened(in_slots @ slots.values_HPV), widened(in_memory @ memory.values)
    seen_BTHV = (from_window + from_slots).transpose(1, 2) + layout.to_tokens(from_memory)
    weight = in_window.sum(dim=-1).flatten(2)[:, :, :num_tokens] + in_slots.sum(dim=-1)
    weight_BTH = weight.transpose(1, 2) + layout.to_tokens(in_memory.sum(dim=-1, keepdim=True)).squeeze(-1)
    return seen_BTHV / weight_BTH.unsqueeze(-1)


def attend_once(
    tokens: Tokens,  # with T = 1
    *,
    state: AttentionState,  # with this token in it
    slots: Slots,
    position_B: Tensor,  # of this token
) -> Tensor:
    """What one token sees, [B, H, V]."""
    slot_W = torch.arange(state.window_keys_BHWK.shape[2], device=position_B.device)
    held_BW = held_positions(position_B, slot_W=slot_W)
    slot_C = torch.arange(state.chunk_keys_BHCK.shape[2], device=position_B.device)
    filled_BC = slot_C <= (position_B % slot_C.numel()).unsqueeze(1)
    in_window = widened(tokens.rotated_q_BHTK @ state.window_keys_BHWK.mT).squeeze(2)
    in_memory = widened(tokens.q_BHTK @ state.chunk_keys_BHCK.mT).squeeze(2)
    scores = torch.cat(
        (
            in_window.masked_fill((held_BW < 0).unsqueeze(1), -torch.inf),
            in_memory.masked_fill(~filled_BC.unsqueeze(1), -torch.inf),
            widened(tokens.q_BHTK @ slots.keys_HPK.mT).squeeze(2),
        ),
        dim=-1,
    )
    shares = scores.softmax(dim=-1).split([slot_W.numel(), slot_C.numel(), slots.keys_HPK.shape[1]], dim=-1)
    values = (state.window_values_BHWV, state.chunk_values_BHCV, slots.values_HPV)
    seen = [
        widened(share.unsqueeze(-2) @ value).squeeze(-2) for share, value in zip(shares, values, strict=True)
    ]
    return seen[0] + seen[1] + seen[2]


def held_positions(last_B: Tensor, *, slot_W: Tensor) -> Tensor:
    """Positions in the slots of a ring [B, W] after a stream's token `last`; negative where there is none."""
    return last_B.unsqueeze(1) - (last_B.unsqueeze(1) - slot_W) % slot_W.numel()


def past_of(state: AttentionState) -> Past:
    """The ring, unrolled."""
    window = state.window_keys_BHWK.shape[2]
    position_BW = (
        state.position_B.unsqueeze(1) - window + torch.arange(window, device=state.position_B.device)
    )
    index = (position_BW % window)[:, None, :, None]
    keys, values = state.window_keys_BHWK, state.window_values_BHWV
    return Past(
        keys=keys.gather(2, index.expand_as(keys)),
        values=values.gather(2, index.expand_as(values)),
        valid_BW=position_BW >= 0,
    )


def rolled(keys: Tensor, values: Tensor, *, last_B: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The ring after a row; `keys` [B, H, n, K] and `values` are of the past and the row, oldest first."""
    slot_W = torch.arange(window, device=keys.device)
    held_BW = held_positions(last_B, slot_W=slot_W)
    missing = max(0, window - keys.shape[2])
    index = (window - 1 - (last_B.unsqueeze(1) - held_BW))[:, None, :, None]
    valid = (held_BW >= 0)[:, None, :, None]

    def ring(x: Tensor) -> Tensor:
        latest = F.pad(x[:, :, -window:], (0, 0, missing, 0))
        return widened(latest).gather(2, index.expand(*latest.shape[:2], -1, latest.shape[3])) * valid

    return ring(keys), ring(values)


def _lead(num_tokens: int, *, block: int, window: int, has_past: bool) -> int:
    """Keys before the row's first: whole blocks that hold the window, no more than there is to see."""
    num_blocks = -(-num_tokens // block)
    if num_blocks == 1:
        return window if has_past else 0
    reach = -(-window // block) * block
    return reach if has_past else min(reach, (num_blocks - 1) * block)


def _with_lead(
    tokens: Tokens, *, past: Past | None, document_BT: Tensor, lead: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and documents of `lead` places and of the row; document −1 where there is no token."""
    keys, values = tokens.rotated_k_BHTK, tokens.v_BHTV
    if past is None:
        padding = (0, 0, lead, 0)
        return F.pad(keys, padding), F.pad(values, padding), F.pad(document_BT, (lead, 0), value=-1)
    extra = lead - past.keys.shape[2]
    past_document = F.pad(past.valid_BW.long() - 1, (extra, 0), value=-1)
    return (
        torch.cat((F.pad(past.keys, (0, 0, extra, 0)), keys), dim=2),
        torch.cat((F.pad(past.values, (0, 0, extra, 0)), values), dim=2),
        torch.cat((past_document, document_BT.expand(past_document.shape[0], -1)), dim=1),
    )


def _blocks(x: Tensor, block: int) -> Tensor:
    """[B, H, T, *] → [B, H, blocks, block, *], filled with zeros."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % block)).unflatten(2, (-1, block))


def _windows(x: Tensor, *, block: int, lead: int) -> Tensor:
    """[B, H, lead + T, *] → [B, H, blocks, lead + block, *]: each block and the `lead` before it."""
    num_tokens = x.shape[2] - lead
    if num_tokens <= block:
        return x.unsqueeze(2)
    cut = _blocks(x, block)
    num_blocks = -(-num_tokens // block)
    return torch.cat([cut[:, :, i : i + num_blocks] for i in range(lead // block + 1)], dim=3)


def _visible(document_BT: Tensor, documents: Tensor, *, block: int, lead: int, window: int) -> Tensor:
    """Which of a block's tokens sees which of its window, [B, 1, blocks, block, lead + block]."""
    num_tokens = document_BT.shape[1]
    distance = (
        lead
        + torch.arange(block, device=documents.device).unsqueeze(1)
        - torch.arange(lead + block, device=documents.device)
    )
    band = (distance >= 0) & (distance < window)
    # What fills the last block is of document 0; nothing real can see it, since it comes last.
    queries = _blocks(document_BT[:, None, :, None], block).squeeze(-1)
    keys = _windows(documents[:, None, :, None], block=block, lead=lead).squeeze(-1)
    assert keys.shape[2] == queries.shape[2] == -(-num_tokens // block)
    return band & (queries.unsqueeze(-1) == keys.unsqueeze(-2))
