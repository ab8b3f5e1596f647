"""Passes of looped layers, over all sequences or some, put together per layer."""

import pytest
import torch

from chronos_moe.pairs import Segments
from chronos_moe.passes import (
    RoutingPass,
    counts_by_layer,
    num_sequences,
    pass_segments,
    probs_by_layer,
    sets_by_layer,
)
from chronos_moe.router import RoutingRecord, route
from chronos_moe.statistics import chosen_mask, expert_counts
from configs.errors import UsageError

NUM_EXPERTS, LAYERS = 6, (3, 7)


def record_of(num_rows: int, *, seed: int) -> RoutingRecord:
    generator = torch.Generator().manual_seed(seed)
    u, router = (
        torch.randn(num_rows, 5, 8, generator=generator),
        torch.randn(NUM_EXPERTS, 8, generator=generator),
    )
    return route(u, router, num_chosen=2)


def looped() -> list[RoutingPass]:
    """Layer 3 once over all; layer 7 in a round cut in two, then a round of sequence 1 alone."""
    return [
        RoutingPass(3, 0, None, record_of(3, seed=0)),
        RoutingPass(7, 0, torch.tensor([1]), record_of(1, seed=1)),
        RoutingPass(7, 0, torch.tensor([2, 0]), record_of(2, seed=2)),
        RoutingPass(7, 1, torch.tensor([1]), record_of(1, seed=3)),
    ]


def test_every_round_counts_and_padding_does_not():
    passes = looped()
    assert num_sequences(passes) == 3
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:] = mask[1, 1:] = False
    counts = counts_by_layer(passes, layers=LAYERS, num_experts=NUM_EXPERTS, mask_BT=mask)
    assert counts.sum(1).tolist() == [2 * (3 + 1 + 5), 2 * (1 + 5 + 3 + 1)]
    parts = [
        passes[1].record.chosen[0, :1],
        passes[2].record.chosen[0],
        passes[2].record.chosen[1, :3],
        passes[3].record.chosen[0, :1],
    ]
    assert torch.equal(counts[1], expert_counts(torch.cat(parts), num_experts=NUM_EXPERTS))
    whole = counts_by_layer(passes, layers=LAYERS, num_experts=NUM_EXPERTS)
    assert whole.sum(1).tolist() == [2 * 15, 2 * 20]


def test_what_a_layer_needs_is_the_union_over_its_rounds():
    passes = looped()
    sets = sets_by_layer(passes, layers=LAYERS)
    single = [chosen_mask(one.record.chosen, num_experts=NUM_EXPERTS) for one in passes]
    assert torch.equal(sets[0], single[0])
    assert torch.equal(sets[1, 0], single[2][1])
    assert torch.equal(sets[1, 1], single[1][0] | single[3][0])
    assert torch.equal(sets[1, 2], single[2][0])


def test_probabilities_of_rounds_join_to_the_largest():
    passes = looped()
    probs = probs_by_layer(passes, layers=LAYERS)
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 3, 5))
    torch.testing.assert_close(probs[0], passes[0].record.probs)
    torch.testing.assert_close(probs[1, 0], passes[2].record.probs[1])
    joined = torch.maximum(passes[1].record.probs[0], passes[3].record.probs[0])
    torch.testing.assert_close(probs[1, 1], joined / joined.sum(-1, keepdim=True))


def test_the_order_of_the_layers_is_the_callers():
    passes = looped()
    turned = sets_by_layer(passes, layers=(7, 3))
    assert torch.equal(turned, sets_by_layer(passes, layers=LAYERS).flip(0))


def test_missing_and_unknown_layers_are_errors():
    with pytest.raises(UsageError, match=r"no pass went through the layers \[9\]"):
        probs_by_layer(looped(), layers=(3, 7, 9))
    with pytest.raises(UsageError, match=r"through layer 7, but the layers with experts are \[3\]"):
        counts_by_layer(looped(), layers=(3,), num_experts=NUM_EXPERTS)


def test_a_pass_has_the_segments_of_its_sequences():
    document, mask = torch.arange(15).view(3, 5), torch.arange(15).view(3, 5) > 6
    given = Segments(document_BT=document, mask_BT=mask)
    whole, _, part, _ = looped()
    assert pass_segments(given, whole) is given
    cut = pass_segments(given, part)
    assert cut.document_BT is not None
    assert cut.mask_BT is not None
    assert torch.equal(cut.document_BT, document[[2, 0]])
    assert torch.equal(cut.mask_BT, mask[[2, 0]])
    assert pass_segments(None, part) == Segments()
    assert pass_segments(Segments(mask_BT=mask), part).document_BT is None


def test_a_step_without_experts_counts_nothing():
    assert counts_by_layer([], layers=(), num_experts=4).shape == (0, 4)
