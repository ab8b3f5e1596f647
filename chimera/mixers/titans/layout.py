"""Which token lies in which chunk: chunks end where a document ends and at multiples of their size in it.

A chunk belongs to one document and starts at a multiple of C of that document's positions, so a packed row
has chunks that are filled in part. How many there are at most is known without looking at the data: rows of T
tokens with n pieces of documents have at most (T + n(C − 1))/C. A piece that goes on from a state counts
twice, because its first chunk may be cut at both ends.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.mixers.chunking import chunks_of_vectors, tokens_of_chunks
from chimera.mixers.packing import Packing, tokens_since_reset


class ChunkLayout(NamedTuple):
    """Where the tokens of a batch lie among S chunks of C slots."""

    memory_chunk: int
    num_tokens: int
    position_BT: Tensor  # in the token's document; [1, T] where all rows agree
    filled_BSC: Tensor  # a token lies in the slot; [1, S, C] where all rows agree
    last_chunk_B: Tensor | None  # the chunk of the row's last token; None where it is the last of all
    starts_document_BS: Tensor | None  # None where no document begins after the first token
    starts_at_border_B: (
        Tensor | None
    )  # the first chunk's border is the running memory; None where there is no past
    slot_BT: Tensor | None  # chunk · C + slot; None where tokens fill the chunks from the first slot on
    token_BSC: Tensor | None  # token of each slot, T where none

    def to_chunks(self, x_BTHK: Tensor) -> Tensor:
        """[B, T, H, K] → [B, H, S, C, K], zero in empty slots."""
        if self.token_BSC is None:
            return chunks_of_vectors(x_BTHK, self.memory_chunk)
        padded = F.pad(x_BTHK, (0, 0, 0, 0, 0, 1))
        index = self.token_BSC.flatten(1)[..., None, None].expand(-1, -1, *x_BTHK.shape[2:])
        return padded.gather(1, index).unflatten(1, self.token_BSC.shape[1:]).movedim(3, 1)

    def to_tokens(self, x_BHSCK: Tensor) -> Tensor:
        """[B, H, S, C, K] → [B, T, H, K]."""
        if self.slot_BT is None:
            return tokens_of_chunks(x_BHSCK, self.num_tokens)
        flat = x_BHSCK.movedim(1, 3).flatten(1, 2)
        return flat.gather(1, self.slot_BT[..., None, None].expand(-1, -1, *flat.shape[2:]))

    def last_chunk(self, x: Tensor) -> Tensor:
        """Of [B, H, S, ...], what belongs to the chunk of the row's last token, [B, H, ...]."""
        if self.last_chunk_B is None:
            return x[:, :, -1]
        index = self.last_chunk_B.view(-1, *(1,) * (x.dim() - 1)).expand(-1, x.shape[1], 1, *x.shape[3:])
        return x.gather(2, index).squeeze(2)


def chunk_layout(
    *,
    batch: int,
    num_tokens: int,
    memory_chunk: int,
    position_B: Tensor | None,
    packing: Packing | None,
    device: torch.device,
) -> ChunkLayout:
    """The layout of a batch. `position_B` is None for rows that begin a text."""
    index_T = torch.arange(num_tokens, device=device)
    if position_B is None and packing is None:
        num_chunks = -(-num_tokens // memory_chunk)
        slots = torch.arange(num_chunks * memory_chunk, device=device)
        return ChunkLayout(
            memory_chunk=memory_chunk,
            num_tokens=num_tokens,
            position_BT=index_T.unsqueeze(0),
            filled_BSC=(slots < num_tokens).view(1, num_chunks, memory_chunk),
            last_chunk_B=None,
            starts_document_BS=None,
            starts_at_border_B=None,
            slot_BT=None,
            token_BSC=None,
        )
    start_B = torch.zeros(batch, dtype=torch.int64, device=device) if position_B is None else position_B
    position_BT = start_B.unsqueeze(1) + index_T
    pieces = 1 if position_B is None else 2
    if packing is not None:
        age_BT = tokens_since_reset(packing.resets_BT)
        position_BT = torch.where(age_BT <= index_T, age_BT, position_BT)
        pieces += packing.max_documents
    num_chunks = (num_tokens + pieces * (memory_chunk - 1)) // memory_chunk

    begins_BT = position_BT % memory_chunk == 0
    chunk_BT = begins_BT.cumsum(dim=1) - begins_BT[:, :1].long()
    slot_BT = chunk_BT * memory_chunk + position_BT % memory_chunk
    # A row with more documents than its packing says would leave the range, which scatter refuses.
    token = torch.full((batch, num_chunks * memory_chunk), num_tokens, device=device)
    token_BSC = token.scatter(1, slot_BT, index_T.expand(batch, -1)).unflatten(1, (num_chunks, memory_chunk))
    starts_document_BS = None
    if packing is not None:
        padded = F.pad(packing.resets_BT, (0, 1), value=False)
        starts_document_BS = padded.gather(1, token_BSC[..., 0])
    return ChunkLayout(
        memory_chunk=memory_chunk,
        num_tokens=num_tokens,
        position_BT=position_BT,
        filled_BSC=token_BSC < num_tokens,
        last_chunk_B=chunk_BT[:, -1],
        starts_document_BS=starts_document_BS,
        starts_at_border_B=begins_BT[:, 0],
        slot_BT=slot_BT,
        token_BSC=token_BSC,
    )
