"""The lookahead router: its shape, what it can learn, and the metrics that judge it."""

import math

import pytest
import torch
from torch import Tensor

from chronos_moe.lookahead import LookaheadRouter
from chronos_moe.losses import lookahead_loss
from chronos_moe.metrics import foreseen_sets, top_recall, union_recall, working_set
from chronos_moe.pairs import Segments
from chronos_moe.statistics import chosen_mask
from configs.errors import UsageError


def test_parameters_of_the_published_size():
    with torch.device("meta"):
        router = LookaheadRouter(width=2560, num_layers=7, num_experts=16)
    shapes = {name: tuple(parameter.shape) for name, parameter in router.named_parameters()}
    assert shapes == {"hidden": (640, 2560), "out": (7 * 16 * 3, 640)}
    assert sum(parameter.numel() for parameter in router.parameters()) == 1_853_440


def test_output_is_one_distribution_per_layer_and_step():
    router = LookaheadRouter(width=16, num_layers=3, num_experts=4, num_steps=1)
    log_ahead = router(torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)))
    assert log_ahead.shape == (2, 5, 3, 2, 4)
    torch.testing.assert_close(log_ahead.exp().sum(-1), torch.ones(2, 5, 3, 2))


def test_rows_are_ordered_by_layer_then_step_then_expert():
    router = LookaheadRouter(width=4, num_layers=3, num_experts=4, num_steps=1)
    with torch.no_grad():
        router.hidden.fill_(1.0)
        router.out.zero_()
        router.out[(2 * 2 + 1) * 4 + 3] = 50.0
        log_ahead = router(torch.ones(1, 1, 4))
    assert float(log_ahead[0, 0, 2, 1, 3]) == pytest.approx(0.0, abs=1e-6)
    others = torch.ones(3, 2, dtype=torch.bool)
    others[2, 1] = False
    torch.testing.assert_close(log_ahead[0, 0][others], torch.full((5, 4), -math.log(4)))


def test_low_precision_products_give_float32_probabilities():
    router = LookaheadRouter(width=16, num_layers=2, num_experts=4)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    plain = router(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = router(x)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, plain, atol=1e-2, rtol=0)


def test_a_width_that_cannot_be_quartered_is_refused():
    with pytest.raises(UsageError, match="must be a multiple of 4"):
        LookaheadRouter(width=18, num_layers=1, num_experts=4)


def test_a_periodic_routing_is_learnt_to_its_entropy():
    """The token's phase is in its residual; the experts go round. Every step ahead must come out right."""
    torch.manual_seed(0)
    num_experts, period, num_tokens = 6, 5, 40
    phase_T = torch.arange(num_tokens) % period
    first_T = torch.tensor([0, 3, 5, 1, 2])[phase_T]
    chosen_LBTA = torch.stack(
        [torch.stack([first_T, (first_T + 1) % 6], -1), torch.stack([first_T, (first_T + 4) % 6], -1)]
    )
    sets = chosen_mask(chosen_LBTA[:, None], num_experts=num_experts)
    probs = sets / sets.sum(-1, keepdim=True)
    x = torch.randn(period, 16)[phase_T][None]
    router = LookaheadRouter(width=16, num_layers=2, num_experts=num_experts, init_std=0.3)
    optimiser = torch.optim.Adam(router.parameters(), lr=0.03)
    for _ in range(800):
        optimiser.zero_grad()
        loss = lookahead_loss(router(x), probs)
        loss.backward()
        optimiser.step()
    assert math.log(2) <= float(loss.detach()) + 1e-6, "the teacher's entropy is the floor"
    assert float(loss.detach()) < math.log(2) + 0.01
    with torch.no_grad():
        log_ahead = router(x)
    for ahead in range(3):
        assert float(top_recall(log_ahead, sets, ahead=ahead, num_chosen=2)) == 1.0
    assert float(union_recall(log_ahead, sets, num_chosen=2)) == 1.0


def spoken(sets: Tensor) -> Tensor:
    """Foresight that says, of every step, the sets of the token itself."""
    return (
        torch.log(sets[..., None, :].float() + 1e-6)
        .log_softmax(-1)
        .permute(1, 2, 0, 3, 4)
        .expand(-1, -1, -1, 3, -1)
    )


def test_recall_counts_the_share_that_was_foreseen():
    sets = chosen_mask(torch.tensor([[[[0, 1], [1, 2], [3, 4], [3, 1]]]]), num_experts=5)
    log_ahead = spoken(sets)
    assert torch.equal(foreseen_sets(log_ahead, num_chosen=2)[0, :, 0, 1], sets[0, 0])
    assert float(top_recall(log_ahead, sets, ahead=0, num_chosen=2)) == 1.0
    assert float(top_recall(log_ahead, sets, ahead=1, num_chosen=2)) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert float(top_recall(log_ahead, sets, ahead=2, num_chosen=2)) == pytest.approx((0 + 0.5) / 2)
    # Unions: {1 2 3 4} by {0 1}, {3 4 1} by {1 2}, {3 1} by {3 4}; the last token has nothing ahead of it.
    assert float(union_recall(log_ahead, sets, num_chosen=2)) == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)
    split = Segments(document_BT=torch.tensor([[0, 0, 1, 1]]))
    assert float(top_recall(log_ahead, sets, ahead=1, num_chosen=2, segments=split)) == pytest.approx(0.5)
    assert float(union_recall(log_ahead, sets, num_chosen=2, segments=split)) == pytest.approx(0.5)


def test_working_set_counts_different_experts_in_a_row_of_tokens():
    sets = chosen_mask(torch.tensor([[[[0, 1], [1, 2], [3, 4], [3, 1]]]]), num_experts=5)
    assert float(working_set(sets, num_tokens=1)) == 2.0
    assert float(working_set(sets, num_tokens=2)) == pytest.approx((3 + 4 + 3) / 3)
    assert float(working_set(sets, num_tokens=4)) == 5.0
    assert float(working_set(sets, num_tokens=9)) == 0.0
    split = Segments(document_BT=torch.tensor([[0, 0, 1, 1]]))
    assert float(working_set(sets, num_tokens=2, segments=split)) == 3.0
