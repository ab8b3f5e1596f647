"""Weights of experts and fallback under masks of availability."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chronos_moe.soft_gate import draw_available, gate_weights
from configs.errors import UsageError

WEIGHTS = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.5, 0.5]])
EXPERTS = torch.tensor([[0, 2], [3, 1], [2, 3]])


def test_all_there_is_exactly_the_plain_layer():
    weights, shared = gate_weights(WEIGHTS, EXPERTS, available=torch.ones(4))
    assert torch.equal(weights, WEIGHTS)
    assert torch.equal(shared, torch.ones(3))


def test_none_there_leaves_the_shared_expert_alone():
    weights, shared = gate_weights(WEIGHTS, EXPERTS, available=torch.zeros(4))
    assert torch.equal(weights, torch.zeros(3, 2))
    torch.testing.assert_close(shared, 1 + WEIGHTS.sum(1))


@settings(max_examples=30, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_nothing_is_lost_between_experts_and_fallback(shares: list[float]):
    available = torch.tensor(shares)
    weights, shared = gate_weights(WEIGHTS, EXPERTS, available=available)
    torch.testing.assert_close(weights, WEIGHTS * available[EXPERTS])
    torch.testing.assert_close(weights.sum(1) + shared, torch.full((3,), 2.0))


def test_availability_per_token_and_as_booleans():
    available = torch.tensor([[True, True, True, True], [True, True, True, False], [False] * 4])
    weights, shared = gate_weights(WEIGHTS, EXPERTS, available=available)
    assert torch.equal(weights, torch.tensor([[0.7, 0.3], [0.0, 0.4], [0.0, 0.0]]))
    torch.testing.assert_close(shared, torch.tensor([1.0, 1.6, 2.0]))


def test_gradients_flow_to_the_router_through_both_parts():
    weights = WEIGHTS.double().requires_grad_()
    available = torch.tensor([1.0, 0.25, 0.0, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w: tuple(gate_weights(w, EXPERTS, available=available)), (weights,)
    )


def test_an_availability_of_another_shape_is_refused():
    for shape in ((2, 4), (1, 3, 4), ()):
        with pytest.raises(UsageError, match=r"allowed are \(experts,\) or \(3, experts\)"):
            gate_weights(WEIGHTS, EXPERTS, available=torch.ones(shape))


def test_random_masks_repeat_with_their_seed_and_meet_their_share():
    draws = [
        draw_available(100, 400, drop=0.08, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    assert torch.equal(*draws)
    assert set(draws[0].unique().tolist()) == {0.0, 1.0}
    # 40,000 draws: five standard deviations are 0.0068.
    assert float(1 - draws[0].mean()) == pytest.approx(0.08, abs=0.0068)
    generator = torch.Generator().manual_seed(3)
    first, second = (draw_available(100, 400, drop=0.08, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_the_extremes_mask_nothing_and_everything():
    generator = torch.Generator().manual_seed(3)
    assert draw_available(50, drop=0.0, generator=generator).all()
    assert not draw_available(50, drop=1.0, generator=generator).any()
    with pytest.raises(UsageError, match=r"must lie in 0 … 1, got 1\.5"):
        draw_available(50, drop=1.5, generator=generator)
