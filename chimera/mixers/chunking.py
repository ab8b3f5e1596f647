"""Cutting a sequence into chunks of C tokens, heads first, and joining them again."""

import torch.nn.functional as F
from torch import Tensor


def chunks_of_vectors(x_BTHK: Tensor, size: int) -> Tensor:
    """[B, T, H, K] → [B, H, S, C, K]; zeros fill the last chunk."""
    padded = F.pad(x_BTHK, (0, 0, 0, 0, 0, -x_BTHK.shape[1] % size))
    return padded.unflatten(1, (-1, size)).movedim(3, 1)


def chunks_of_gates(x_BTH: Tensor, size: int, *, fill: float | bool = 0.0) -> Tensor:
    """[B, T, H] → [B, H, S, C]; `fill` fills the last chunk."""
    padded = F.pad(x_BTH, (0, 0, 0, -x_BTH.shape[1] % size), value=fill)
    return padded.unflatten(1, (-1, size)).movedim(3, 1)


def tokens_of_chunks(x_BHSCK: Tensor, num_tokens: int) -> Tensor:
    """[B, H, S, C, K] → [B, T, H, K], without what filled the last chunk."""
    return x_BHSCK.movedim(1, 3).flatten(1, 2)[:, :num_tokens]
