"""Losses that keep experts balanced, local in time and foreseeable.

P [..., B, T, E] are a router's probabilities (scores over their sum). Leading axes are layers or passes,
and a loss is the mean over them: expert 3 of one layer has nothing to do with expert 3 of another, so P is
never averaged over layers before a loss looks at it.

    balance    E Σ_e f_e P̄_e            f: share of the visits, P̄: mean probability; 1 when both are even
    temporal   mean_t ‖P_t − P_{t−1}‖²
    lookahead  mean_k mean_t −Σ_e sg(P_{t+k})_e log Q_t^(k)_e    k = 0 … K, Q: what token t foresees

Three further terms of the public code (Chronos) are there, off unless given a weight. Pairs of tokens
across a border of documents and pairs with padding are left out everywhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from chronos_moe.lookahead import check_foresight
from chronos_moe.pairs import Segments, mean_where, valid_pairs
from chronos_moe.statistics import chosen_mask


def balance_loss(probs: Tensor, chosen: Tensor, *, mask_BT: Tensor | None = None) -> Tensor:
    """Load times probability, over each sequence [B, T, E] by itself (DeepSeek's auxiliary loss)."""
    num_experts, num_chosen = probs.shape[-1], chosen.shape[-1]
    visits = chosen_mask(chosen, num_experts=num_experts).to(probs.dtype)
    if mask_BT is None:
        load, mean_probs = visits.mean(dim=-2), probs.mean(dim=-2)
        return (load * mean_probs).sum(dim=-1).mean() * (num_experts / num_chosen)
    real = mask_BT.unsqueeze(-1)
    num_real = mask_BT.sum(dim=-1, keepdim=True).clamp(min=1)
    load = torch.where(real, visits, 0.0).sum(dim=-2) / num_real
    mean_probs = torch.where(real, probs, 0.0).sum(dim=-2) / num_real
    per_sequence = (load * mean_probs).sum(dim=-1) * (num_experts / num_chosen)
    return mean_where(per_sequence, mask_BT.any(dim=-1).expand(per_sequence.shape))


def temporal_loss(probs: Tensor, *, segments: Segments | None = None) -> Tensor:
    """Squared change of the probabilities between neighbours, mean over the T − 1 pairs."""
    change = (probs[..., 1:, :] - probs[..., :-1, :]).square().sum(dim=-1)
    valid = valid_pairs(probs, ahead=1, segments=segments)
    return mean_where(change, valid.expand(change.shape))


def lookahead_loss(log_ahead: Tensor, probs_LBTE: Tensor, *, segments: Segments | None = None) -> Tensor:
    """Cross-entropy of the foreseen probabilities against the detached real ones.

    `log_ahead` [B, T, L, 1 + K, E]: what token t foresees for itself (k = 0, the layers still ahead) and
    for the tokens t + k. A k that no pair of the batch reaches counts neither above nor below.
    """
    check_foresight(log_ahead, probs_LBTE)
    target_LBTE = probs_LBTE.detach()
    losses, reached = [], []
    for ahead in range(log_ahead.shape[3]):
        foreseen, valid = (
            _foreseen(log_ahead, ahead=ahead),
            valid_pairs(target_LBTE, ahead=ahead, segments=segments),
        )
        cross_entropy = -(target_LBTE[:, :, ahead:] * foreseen).sum(dim=-1)
        losses.append(mean_where(cross_entropy, valid.expand(cross_entropy.shape)))
        reached.append(valid.any())
    return mean_where(torch.stack(losses), torch.stack(reached))


def top_mass_loss(log_ahead: Tensor, chosen_LBTE: Tensor, *, segments: Segments | None = None) -> Tensor:
    """−log of the probability foreseen for the set of experts that t + k really visits, mean over k."""
    check_foresight(log_ahead, chosen_LBTE)
    losses, reached = [], []
    for ahead in range(log_ahead.shape[3]):
        foreseen, valid = (
            _foreseen(log_ahead, ahead=ahead),
            valid_pairs(chosen_LBTE, ahead=ahead, segments=segments),
        )
        missed = -_log_mass(foreseen, chosen_LBTE[:, :, ahead:])
        losses.append(mean_where(missed, valid.expand(missed.shape)))
        reached.append(valid.any())
    return mean_where(torch.stack(losses), torch.stack(reached))


def union_mass_loss(log_ahead: Tensor, chosen_LBTE: Tensor, *, segments: Segments | None = None) -> Tensor:
    """−log of the mean probability foreseen for all experts that the tokens t + 1 … t + K visit."""
    check_foresight(log_ahead, chosen_LBTE)
    num_tokens = chosen_LBTE.shape[2]
    union = torch.zeros_like(chosen_LBTE)
    mass = torch.zeros_like(chosen_LBTE, dtype=log_ahead.dtype)
    num_steps = torch.zeros_like(mass[0, ..., 0])  # [B, T]: steps that stay inside the document
    for ahead in range(1, min(log_ahead.shape[3], num_tokens)):
        valid = valid_pairs(chosen_LBTE, ahead=ahead, segments=segments)
        inside = valid.unsqueeze(-1)
        foreseen = torch.where(inside, _foreseen(log_ahead, ahead=ahead).exp(), 0.0)
        union = union | F.pad(chosen_LBTE[:, :, ahead:] & inside, (0, 0, 0, ahead))
        mass = mass + F.pad(foreseen, (0, 0, 0, ahead))
        num_steps = num_steps + F.pad(valid, (0, ahead))
    share = torch.where(union, mass, 0.0).sum(dim=-1) / num_steps.clamp(min=1)
    some = union.any(dim=-1)
    return mean_where(-torch.where(some, share, 1.0).log(), some)


def locality_loss(log_probs: Tensor, chosen_sets: Tensor, *, segments: Segments | None = None) -> Tensor:
    """−log of the probability that token t + 1 gives to the experts that token t visited."""
    missed = -_log_mass(log_probs[..., 1:, :], chosen_sets[..., :-1, :])
    valid = valid_pairs(log_probs, ahead=1, segments=segments)
    return mean_where(missed, valid.expand(missed.shape))


def _foreseen(log_ahead: Tensor, *, ahead: int) -> Tensor:
    """What the tokens 0 … T − 1 − ahead said of the tokens `ahead` later, [L, B, T − ahead, E]."""
    num_tokens = log_ahead.shape[1]
    return log_ahead[:, : max(num_tokens - ahead, 0), :, ahead].movedim(2, 0)


def _log_mass(log_probs: Tensor, sets: Tensor) -> Tensor:
    """log Σ of the probabilities inside the sets; 0 for an empty set, which no valid token has."""
    sets = sets | ~sets.any(dim=-1, keepdim=True)
    return log_probs.masked_fill(~sets, float("-inf")).logsumexp(dim=-1)
