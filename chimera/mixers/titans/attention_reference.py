"""The layer's attention as it is written down: a list of what each token sees, in its inputs' type."""

import torch
from torch import Tensor

from chimera.mixers.titans.attention import Slots, Tokens


def attention_reference(
    tokens: Tokens,
    *,
    memory_keys_BHTK: Tensor,  # of each token's own memory token
    memory_values_BHTV: Tensor,
    slots: Slots,
    document_BT: Tensor,
    position_BT: Tensor,  # in the document
    window: int,
    memory_chunk: int,
) -> Tensor:
    """What every token sees, [B, T, H, V], for rows without a past."""
    batch, _, num_tokens, _ = tokens.q_BHTK.shape
    outputs: list[Tensor] = []
    for row in range(batch):
        for t in range(num_tokens):
            same = [j for j in range(t + 1) if document_BT[row, j] == document_BT[row, t]]
            near = [j for j in same if t - j < window]
            chunk = position_BT[row, t] // memory_chunk
            answers = [j for j in same if position_BT[row, j] // memory_chunk == chunk]
            q, rotated_q = tokens.q_BHTK[row, :, t, :, None], tokens.rotated_q_BHTK[row, :, t, :, None]
            scores = torch.cat(
                (
                    slots.keys_HPK @ q,
                    memory_keys_BHTK[row, :, answers] @ q,
                    tokens.rotated_k_BHTK[row, :, near] @ rotated_q,
                ),
                dim=1,
            )
            values = torch.cat(
                (slots.values_HPV, memory_values_BHTV[row, :, answers], tokens.v_BHTV[row, :, near]), dim=1
            )
            outputs.append((scores.softmax(dim=1) * values).sum(dim=1))
    return torch.stack(outputs).unflatten(0, (batch, num_tokens))
