"""The losses against loops written out token by token, their gradients, and what they must leave out."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronos_moe.losses import (
    balance_loss,
    locality_loss,
    lookahead_loss,
    temporal_loss,
    top_mass_loss,
    union_mass_loss,
)
from chronos_moe.pairs import Segments
from chronos_moe.router import route
from chronos_moe.statistics import chosen_mask
from configs.errors import UsageError

NUM_EXPERTS = 5


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probs_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, NUM_EXPERTS, generator=generator_of(seed), dtype=torch.float64).softmax(-1)


def chosen_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, NUM_EXPERTS, generator=generator_of(seed)).topk(2, dim=-1).indices


def ahead_of(
    num_sequences: int, num_tokens: int, num_layers: int, *, num_steps: int = 2, seed: int = 9
) -> Tensor:
    shape = (num_sequences, num_tokens, num_layers, 1 + num_steps, NUM_EXPERTS)
    return torch.randn(*shape, generator=generator_of(seed), dtype=torch.float64).log_softmax(-1)


def segments_of(num_sequences: int, num_tokens: int, *, seed: int) -> Segments:
    generator = generator_of(seed)
    border = torch.rand(num_sequences, num_tokens, generator=generator) < 0.3
    mask = torch.rand(num_sequences, num_tokens, generator=generator) < 0.8
    # Numbers come again (modulo 2), as they do when a loader numbers documents within a row.
    return Segments(document_BT=border.cumsum(dim=1) % 2, mask_BT=mask)


def together(segments: Segments | None, row: int, first: int, last: int) -> bool:
    if segments is None:
        return True
    assert segments.document_BT is not None
    assert segments.mask_BT is not None
    documents = segments.document_BT[row, first : last + 1]
    return bool(
        (documents == documents[0]).all() and segments.mask_BT[row, first] and segments.mask_BT[row, last]
    )


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


CASES = pytest.mark.parametrize(
    "seed", [None, 0, 1, 2], ids=lambda seed: "plain" if seed is None else f"packed {seed}"
)


def case(seed: int | None) -> Segments | None:
    return None if seed is None else segments_of(3, 9, seed=seed)


@CASES
def test_temporal_loss_is_the_mean_over_pairs(seed: int | None):
    probs, segments = probs_of(2, 3, 9), case(seed)
    changes = [
        float((probs[layer, row, t] - probs[layer, row, t - 1]).square().sum())
        for layer in range(2)
        for row in range(3)
        for t in range(1, 9)
        if together(segments, row, t - 1, t)
    ]
    assert float(temporal_loss(probs, segments=segments)) == pytest.approx(mean(changes))


def test_temporal_loss_divides_by_the_pairs_and_not_by_the_tokens():
    probs = torch.eye(2, dtype=torch.float64)[torch.tensor([[0, 1, 0]])]
    assert float(temporal_loss(probs)) == 2.0
    assert float(temporal_loss(probs[:, :1])) == 0.0


@CASES
def test_lookahead_loss_is_a_cross_entropy_over_pairs(seed: int | None):
    probs, log_ahead, segments = probs_of(2, 3, 9), ahead_of(3, 9, 2), case(seed)
    steps = [
        mean(
            [
                -float((probs[layer, row, t + ahead] * log_ahead[row, t, layer, ahead]).sum())
                for layer in range(2)
                for row in range(3)
                for t in range(9 - ahead)
                if together(segments, row, t, t + ahead)
            ]
        )
        for ahead in range(3)
    ]
    assert float(lookahead_loss(log_ahead, probs, segments=segments)) == pytest.approx(mean(steps))


@CASES
def test_top_mass_loss_is_the_log_of_what_the_visited_experts_were_given(seed: int | None):
    sets, log_ahead, segments = (
        chosen_mask(chosen_of(2, 3, 9), num_experts=NUM_EXPERTS),
        ahead_of(3, 9, 2),
        case(seed),
    )
    steps = [
        mean(
            [
                -math.log(float(log_ahead[row, t, layer, ahead].exp()[sets[layer, row, t + ahead]].sum()))
                for layer in range(2)
                for row in range(3)
                for t in range(9 - ahead)
                if together(segments, row, t, t + ahead)
            ]
        )
        for ahead in range(3)
    ]
    assert float(top_mass_loss(log_ahead, sets, segments=segments)) == pytest.approx(mean(steps))


@CASES
def test_union_mass_loss_looks_at_all_steps_together(seed: int | None):
    sets, log_ahead, segments = (
        chosen_mask(chosen_of(2, 3, 9), num_experts=NUM_EXPERTS),
        ahead_of(3, 9, 2),
        case(seed),
    )
    losses = []
    for layer in range(2):
        for row in range(3):
            for t in range(9):
                steps = [a for a in (1, 2) if t + a < 9 and together(segments, row, t, t + a)]
                if steps:
                    union = torch.stack([sets[layer, row, t + a] for a in steps]).any(0)
                    foreseen = torch.stack([log_ahead[row, t, layer, a].exp() for a in steps]).mean(0)
                    losses.append(-math.log(float(foreseen[union].sum())))
    assert float(union_mass_loss(log_ahead, sets, segments=segments)) == pytest.approx(mean(losses))


@CASES
def test_locality_loss_asks_the_next_token_for_the_last_ones_experts(seed: int | None):
    probs, segments = probs_of(2, 3, 9), case(seed)
    sets = chosen_mask(chosen_of(2, 3, 9), num_experts=NUM_EXPERTS)
    losses = [
        -math.log(float(probs[layer, row, t + 1][sets[layer, row, t]].sum()))
        for layer in range(2)
        for row in range(3)
        for t in range(8)
        if together(segments, row, t, t + 1)
    ]
    assert float(locality_loss(probs.log(), sets, segments=segments)) == pytest.approx(mean(losses))


@pytest.mark.parametrize("masked", [False, True])
def test_balance_loss_is_per_sequence(masked: bool):
    probs, chosen = probs_of(2, 3, 9), chosen_of(2, 3, 9)
    mask = torch.rand(3, 9, generator=generator_of(4)) < 0.6 if masked else torch.ones(3, 9, dtype=torch.bool)
    mask[2] = not masked
    losses = []
    for layer in range(2):
        for row in range(3):
            real = mask[row]
            if real.any():
                share = torch.bincount(chosen[layer, row, real].flatten(), minlength=NUM_EXPERTS) / (
                    2 * real.sum()
                )
                losses.append(float(NUM_EXPERTS * (share * probs[layer, row, real].mean(0)).sum()))
    got = balance_loss(probs, chosen, mask_BT=mask if masked else None)
    assert float(got) == pytest.approx(mean(losses))


def test_balance_loss_is_one_when_even_and_grows_with_the_load_of_one_expert():
    even_probs = torch.full((1, NUM_EXPERTS, NUM_EXPERTS), 1 / NUM_EXPERTS)
    even = torch.stack([torch.arange(NUM_EXPERTS), torch.arange(NUM_EXPERTS).roll(1)], dim=-1)[None]
    assert float(balance_loss(even_probs, even)) == pytest.approx(1.0)
    lonely = torch.zeros(1, NUM_EXPERTS, NUM_EXPERTS)
    lonely[..., 0] = 1
    assert float(balance_loss(lonely, torch.zeros(1, NUM_EXPERTS, 1, dtype=torch.int64))) == NUM_EXPERTS


LOSSES: dict[str, Callable[[Tensor, Segments | None], Tensor]] = {
    "balance": lambda probs, s: balance_loss(probs, chosen_of(2, 3, 4), mask_BT=s.mask_BT if s else None),
    "temporal": lambda probs, s: temporal_loss(probs, segments=s),
    "locality": lambda probs, s: locality_loss(
        probs.log(), chosen_mask(chosen_of(2, 3, 4), num_experts=NUM_EXPERTS), segments=s
    ),
}
FORESIGHTS: dict[str, Callable[[Tensor, Segments | None], Tensor]] = {
    "lookahead": lambda log_ahead, s: lookahead_loss(log_ahead, probs_of(2, 3, 4), segments=s),
    "top mass": lambda log_ahead, s: top_mass_loss(
        log_ahead, chosen_mask(chosen_of(2, 3, 4), num_experts=NUM_EXPERTS), segments=s
    ),
    "union mass": lambda log_ahead, s: union_mass_loss(
        log_ahead, chosen_mask(chosen_of(2, 3, 4), num_experts=NUM_EXPERTS), segments=s
    ),
}
SEGMENTS = [None, segments_of(3, 4, seed=0), Segments(mask_BT=torch.zeros(3, 4, dtype=torch.bool))]


@pytest.mark.parametrize("segments", SEGMENTS, ids=["plain", "packed", "all padding"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_the_probabilities(name: str, segments: Segments | None):
    logits = torch.randn(
        2, 3, 4, NUM_EXPERTS, generator=generator_of(3), dtype=torch.float64
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: LOSSES[name](logits.softmax(-1), segments), (logits,))


@pytest.mark.parametrize("segments", SEGMENTS, ids=["plain", "packed", "all padding"])
@pytest.mark.parametrize("name", FORESIGHTS)
def test_gradients_reach_the_foresight(name: str, segments: Segments | None):
    shape = (3, 4, 2, 3, NUM_EXPERTS)
    logits = torch.randn(*shape, generator=generator_of(3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: FORESIGHTS[name](logits.log_softmax(-1), segments), (logits,), fast_mode=True
    )


def test_the_temporal_loss_has_a_gradient_for_the_router():
    """With sigmoid scores and loss-free balancing nothing else would move the router towards locality."""
    u, router = (
        torch.randn(2, 6, 8, generator=generator_of(0)),
        torch.randn(NUM_EXPERTS, 8, requires_grad=True),
    )
    temporal_loss(route(u, router, num_chosen=2).probs).backward()
    assert router.grad is not None
    assert float(router.grad.norm()) > 1e-4


def test_the_teacher_of_the_lookahead_loss_is_detached():
    probs = probs_of(1, 2, 5).requires_grad_()
    log_ahead = ahead_of(2, 5, 1).requires_grad_()
    lookahead_loss(log_ahead, probs).backward()
    assert probs.grad is None
    assert log_ahead.grad is not None
    assert log_ahead.grad.abs().max() > 0


def test_foresight_points_to_the_right():
    """What token t says of k = 1 is compared with token t + 1: foreseeing the past must not pay."""
    probs = torch.eye(NUM_EXPERTS, dtype=torch.float64)[torch.arange(40) % NUM_EXPERTS][None, None]
    for shift, right in ((1, True), (-1, False), (0, False)):
        said = torch.stack([probs, probs.roll(-shift, dims=2), probs.roll(-2 * shift, dims=2)], dim=-2)
        log_ahead = said[0].unsqueeze(2).clamp(min=1e-9).log()
        loss = float(lookahead_loss(log_ahead, probs))
        assert (loss < 1e-6) if right else (loss > 10)


def test_the_entropy_of_the_teacher_is_the_least_loss():
    probs = probs_of(2, 3, 9)
    perfect = (
        torch.stack([probs.roll(-ahead, dims=2) for ahead in range(3)], dim=-2).permute(1, 2, 0, 3, 4).log()
    )
    entropies = [float(-(probs * probs.log()).sum(-1)[:, :, ahead:].mean()) for ahead in range(3)]
    assert float(lookahead_loss(perfect, probs)) == pytest.approx(mean(entropies))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_foresight_beats_the_entropy(seed: int):
    probs = probs_of(1, 2, 6, seed=seed)
    log_ahead = ahead_of(2, 6, 1, seed=seed + 1)
    entropies = [float(-(probs * probs.log()).sum(-1)[:, :, ahead:].mean()) for ahead in range(3)]
    assert float(lookahead_loss(log_ahead, probs)) >= mean(entropies)


def test_a_text_shorter_than_the_horizon_counts_the_steps_that_it_has():
    probs, log_ahead = probs_of(1, 1, 1), ahead_of(1, 1, 1)
    expected = -float((probs[0, 0, 0] * log_ahead[0, 0, 0, 0]).sum())
    assert float(lookahead_loss(log_ahead, probs)) == pytest.approx(expected)
    sets = chosen_mask(chosen_of(1, 1, 1), num_experts=NUM_EXPERTS)
    assert float(union_mass_loss(log_ahead, sets)) == 0.0


def test_foresight_of_another_model_is_refused():
    with pytest.raises(
        UsageError, match=r"\(2, 5, 3, 3, 5\), but the routing of 1 layers asks for \(2, 5, 1, 3, 5\)"
    ):
        lookahead_loss(ahead_of(2, 5, 3), probs_of(1, 2, 5))
