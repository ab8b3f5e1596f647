"""Several documents in one row: where each begins, so that no layer carries anything across the border."""

from typing import NamedTuple

import torch
from torch import Tensor

from configs.errors import UsageError


# A named tuple and not a dataclass, so that torch.compile and activation checkpointing see the tensor in it.
class Packing(NamedTuple):
    """The documents of a packed batch."""

    resets_BT: Tensor
    """True at the first token of a document. Tokens before the first continue the state that came in."""
    max_documents: int
    """No row has more documents. A plain number, so that shapes are known without asking the device."""


def packing_of(segment_ids_BT: Tensor) -> Packing:
    """The packing of rows whose documents have ids, one id from a document's first to its last token.

    Call it where the batch is put together, on the CPU: counting the documents waits for the device.
    """
    if segment_ids_BT.dim() != 2 or segment_ids_BT.numel() == 0:
        raise UsageError(
            f"segment ids must be [rows, tokens], not empty, got {tuple(segment_ids_BT.shape)}",
            hint="Give one id per token, for example [[0, 0, 0, 1, 1]].",
        )
    first = torch.ones_like(segment_ids_BT[:, :1], dtype=torch.bool)
    resets_BT = torch.cat((first, segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]), dim=1)
    return Packing(resets_BT=resets_BT, max_documents=int(resets_BT.sum(dim=1).max()))


def document_of(resets_BT: Tensor) -> Tensor:
    """Number of each token's document within its row; 0 for one that continues the state that came in."""
    return resets_BT.cumsum(dim=1)


def tokens_since_reset(resets_BT: Tensor) -> Tensor:
    """Tokens since a document's first; for a document that began before the row, more than the row holds."""
    num_tokens = resets_BT.shape[1]
    index_T = torch.arange(num_tokens, device=resets_BT.device)
    # A start that no row can hold stands for "before this row".
    start_BT = torch.where(resets_BT, index_T, -(2**31)).cummax(dim=1).values
    return index_T - start_BT
