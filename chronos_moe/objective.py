"""The routing losses of a step together: what a trainer adds to its own loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chronos_moe.losses import balance_loss, lookahead_loss, temporal_loss
from chronos_moe.pairs import Segments
from chronos_moe.passes import RoutingPass, pass_segments, probs_by_layer
from configs.errors import UsageError
from configs.schema.training import Chronos


class RoutingLoss(NamedTuple):
    """The weighted sum, and its terms without their weights, for the log."""

    total: Tensor
    terms: Mapping[str, Tensor]


def routing_loss(
    passes: Sequence[RoutingPass],
    *,
    weights: Chronos,
    layers: Sequence[int],  # those with experts, in the order of L
    log_ahead: Tensor | None = None,  # [B, T, L, 1 + K, E] of the lookahead router
    segments: Segments | None = None,
) -> RoutingLoss:
    """Balance, temporal and lookahead losses; a term of weight 0 is not computed. The anchor is apart.

    Balance and temporal change are means over all passes, so that every iteration of a loop is held. What
    is to be foreseen is the union over the iterations.
    """
    if not passes:
        raise UsageError(
            "a model without experts has no routing losses", hint="Leave them out of its training."
        )
    terms: dict[str, Tensor] = {}
    if weights.lambda_balance:
        terms["balance"] = _mean_over(passes, _balance, segments=segments)
    if weights.lambda_temporal:
        terms["temporal"] = _mean_over(passes, _temporal, segments=segments)
    if weights.lambda_lookahead:
        if log_ahead is None:
            raise UsageError(
                f"lambda_lookahead is {weights.lambda_lookahead:g}, but no lookahead router has spoken",
                hint="Pass its output as log_ahead, or set the weight to 0.",
            )
        probs_LBTE = probs_by_layer(passes, layers=layers)
        terms["lookahead"] = lookahead_loss(log_ahead, probs_LBTE, segments=segments)
    total = passes[0].record.log_probs.new_zeros(())
    for name, term in terms.items():
        total = total + getattr(weights, f"lambda_{name}") * term
    return RoutingLoss(total=total, terms={name: term.detach() for name, term in terms.items()})


def _balance(one: RoutingPass, segments: Segments) -> Tensor:
    return balance_loss(one.record.probs, one.record.chosen, mask_BT=segments.mask_BT)


def _temporal(one: RoutingPass, segments: Segments) -> Tensor:
    return temporal_loss(one.record.probs, segments=segments)


def _mean_over(
    passes: Sequence[RoutingPass],
    loss: Callable[[RoutingPass, Segments], Tensor],
    *,
    segments: Segments | None,
) -> Tensor:
    """The mean over passes, each as heavy as it has sequences."""
    sizes = [one.record.chosen.shape[0] for one in passes]
    losses = [size * loss(one, pass_segments(segments, one)) for one, size in zip(passes, sizes, strict=True)]
    return torch.stack(losses).sum() / sum(sizes)
