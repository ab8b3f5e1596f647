"""How well routing is foreseen, and how much of it is live at once.

Sets are booleans [L, B, T, E]: the experts that a token visits in each layer, over all iterations of a
loop. All results are means over layers and valid tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from chronos_moe.lookahead import check_foresight
from chronos_moe.pairs import Segments, mean_where, valid_pairs


def foreseen_sets(log_ahead: Tensor, *, num_chosen: int) -> Tensor:
    """The `num_chosen` likeliest experts of a prediction [B, T, L, 1 + K, E], as sets of the same shape."""
    top = log_ahead.topk(num_chosen, dim=-1).indices
    return torch.zeros_like(log_ahead, dtype=torch.bool).scatter(-1, top, True)


def top_recall(
    log_ahead: Tensor, sets_LBTE: Tensor, *, ahead: int, num_chosen: int, segments: Segments | None = None
) -> Tensor:
    """Share of the experts of token t + ahead that were among the `num_chosen` foreseen at t."""
    check_foresight(log_ahead, sets_LBTE)
    num_tokens = sets_LBTE.shape[2]
    foreseen = foreseen_sets(log_ahead[..., ahead, :], num_chosen=num_chosen).movedim(2, 0)
    real = sets_LBTE[:, :, ahead:]
    hit = (foreseen[:, :, : max(num_tokens - ahead, 0)] & real).sum(dim=-1)
    valid = valid_pairs(sets_LBTE, ahead=ahead, segments=segments)
    return mean_where(hit / real.sum(dim=-1).clamp(min=1), valid.expand(hit.shape))


def union_recall(
    log_ahead: Tensor, sets_LBTE: Tensor, *, num_chosen: int, segments: Segments | None = None
) -> Tensor:
    """Share of all experts of the tokens t + 1 … t + K that any step foreseen at t named."""
    check_foresight(log_ahead, sets_LBTE)
    num_tokens = sets_LBTE.shape[2]
    foreseen = foreseen_sets(log_ahead, num_chosen=num_chosen).movedim(2, 0)
    named, real = torch.zeros_like(sets_LBTE), torch.zeros_like(sets_LBTE)
    for ahead in range(1, min(log_ahead.shape[3], num_tokens)):
        valid = valid_pairs(sets_LBTE, ahead=ahead, segments=segments).unsqueeze(-1)
        pad = (0, 0, 0, ahead)
        named |= F.pad(foreseen[:, :, : num_tokens - ahead, ahead] & valid, pad)
        real |= F.pad(sets_LBTE[:, :, ahead:] & valid, pad)
    size = real.sum(dim=-1)
    return mean_where((named & real).sum(dim=-1) / size.clamp(min=1), size > 0)


def working_set(sets_LBTE: Tensor, *, num_tokens: int, segments: Segments | None = None) -> Tensor:
    """Mean number of different experts that a layer needs within `num_tokens` tokens in a row."""
    ahead = num_tokens - 1
    valid = valid_pairs(sets_LBTE, ahead=ahead, segments=segments)
    visits = F.pad(sets_LBTE.long().cumsum(dim=2), (0, 0, 1, 0))
    within = visits[:, :, num_tokens:] - visits[:, :, : max(visits.shape[2] - num_tokens, 0)]
    size = (within > 0).sum(dim=-1)
    return mean_where(size.float(), valid.expand(size.shape))
