"""The weighted sum of the routing losses."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from chronos_moe.losses import balance_loss, lookahead_loss, temporal_loss
from chronos_moe.objective import routing_loss
from chronos_moe.pairs import Segments
from chronos_moe.passes import RoutingPass, probs_by_layer
from chronos_moe.router import route
from configs.errors import UsageError
from configs.schema.training import Chronos

LAYERS, NUM_EXPERTS = (1, 4), 5
WEIGHTS = Chronos(lambda_balance=0.5, lambda_temporal=2.0, lambda_lookahead=0.25)


def passes_of(router: Tensor) -> list[RoutingPass]:
    """Layer 1 once, layer 4 in two rounds, the second without the second sequence."""
    generator = torch.Generator().manual_seed(0)
    records = [
        route(torch.randn(rows, 6, 8, generator=generator), router, num_chosen=2) for rows in (2, 2, 1)
    ]
    return [
        RoutingPass(1, 0, None, records[0]),
        RoutingPass(4, 0, torch.tensor([1, 0]), records[1]),
        RoutingPass(4, 1, torch.tensor([0]), records[2]),
    ]


def parts() -> tuple[Tensor, list[RoutingPass], Tensor, Segments]:
    generator = torch.Generator().manual_seed(1)
    router = torch.randn(NUM_EXPERTS, 8, generator=generator).requires_grad_()
    log_ahead = (
        torch.randn(2, 6, len(LAYERS), 3, NUM_EXPERTS, generator=generator).log_softmax(-1).requires_grad_()
    )
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    return router, passes_of(router), log_ahead, Segments(mask_BT=mask)


def test_the_total_is_the_weighted_sum_over_passes():
    _, passes, log_ahead, segments = parts()
    mask = segments.mask_BT
    assert mask is not None
    masks = [mask, mask[[1, 0]], mask[:1]]
    balance, temporal = torch.zeros(()), torch.zeros(())
    for one, its_mask in zip(passes, masks, strict=True):
        share = one.record.chosen.shape[0] / 5
        balance = balance + share * balance_loss(one.record.probs, one.record.chosen, mask_BT=its_mask)
        temporal = temporal + share * temporal_loss(one.record.probs, segments=Segments(mask_BT=its_mask))
    lookahead = lookahead_loss(log_ahead, probs_by_layer(passes, layers=LAYERS), segments=segments)
    expected = 0.5 * balance + 2.0 * temporal + 0.25 * lookahead
    loss = routing_loss(passes, weights=WEIGHTS, layers=LAYERS, log_ahead=log_ahead, segments=segments)
    torch.testing.assert_close(loss.total, expected)
    assert set(loss.terms) == {"balance", "temporal", "lookahead"}
    assert not any(term.requires_grad for term in loss.terms.values())


def test_router_and_lookahead_router_both_learn():
    router, passes, log_ahead, segments = parts()
    routing_loss(
        passes, weights=WEIGHTS, layers=LAYERS, log_ahead=log_ahead, segments=segments
    ).total.backward()
    for tensor in (router, log_ahead):
        assert tensor.grad is not None
        assert tensor.grad.norm() > 1e-4


def test_a_weight_of_zero_leaves_its_term_out():
    _, passes, _, segments = parts()
    none = Chronos(lambda_balance=0.0, lambda_temporal=0.0, lambda_lookahead=0.0)
    loss = routing_loss(passes, weights=none, layers=LAYERS, segments=segments)
    assert loss.total.item() == 0.0
    assert not loss.terms
    local = routing_loss(passes, weights=replace(none, lambda_temporal=1.0), layers=LAYERS)
    assert set(local.terms) == {"temporal"}


def test_missing_parts_are_named():
    _, passes, _, _ = parts()
    with pytest.raises(UsageError, match=r"lambda_lookahead is 0\.25, but no lookahead router"):
        routing_loss(passes, weights=WEIGHTS, layers=LAYERS)
    with pytest.raises(UsageError, match="a model without experts"):
        routing_loss([], weights=WEIGHTS, layers=LAYERS)
