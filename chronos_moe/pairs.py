"""Pairs of tokens (t, t+k) that belong together: inside one document, both of them real tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from configs.errors import UsageError


class Segments(NamedTuple):
    """Where documents begin and where padding lies in a packed batch. None: one document, no padding."""

    document_BT: Tensor | None = None  # int, a number per document; only a change of it means something
    mask_BT: Tensor | None = None  # bool, true where a token is real


def valid_pairs(values: Tensor, *, ahead: int, segments: Segments | None) -> Tensor:
    """Which pairs (t, t+ahead) count, [B, T − ahead] bool, for values of the shape [..., B, T, E].

    A pair is valid when no border lies between its tokens, wherever numbers come again: a border is a
    change from one token to the next, and the number of borders so far tells two runs of one number apart.
    """
    num_sequences, num_tokens = values.shape[-3:-1]
    shape = (num_sequences, max(num_tokens - ahead, 0))
    valid = torch.ones(shape, dtype=torch.bool, device=values.device)
    if segments is None or shape[1] == 0:
        return valid
    for what, given in zip(Segments._fields, segments, strict=True):
        if given is not None and given.shape != (num_sequences, num_tokens):
            raise UsageError(
                f"{what} has the shape {tuple(given.shape)}, the tokens {(num_sequences, num_tokens)}"
            )
    if segments.document_BT is not None:
        document_BT = segments.document_BT
        border_BT = torch.zeros_like(document_BT, dtype=torch.int64)
        border_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
        run_BT = border_BT.cumsum(dim=1)
        valid = run_BT[:, ahead:] == run_BT[:, : num_tokens - ahead]
    if segments.mask_BT is not None:
        valid = valid & segments.mask_BT[:, ahead:] & segments.mask_BT[:, : num_tokens - ahead]
    return valid


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of the valid values, and 0 with a zero gradient where none is valid."""
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)
