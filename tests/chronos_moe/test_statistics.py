"""Counts, their worst excess, entropies and overlaps."""

import math

import pytest
import torch

from chronos_moe.pairs import Segments, valid_pairs
from chronos_moe.router import RoutingRecord, route
from chronos_moe.statistics import (
    LoadWindow,
    adjacent_jaccard,
    choice_entropy,
    chosen_mask,
    expert_counts,
    load_entropy,
    max_violation,
)
from configs.errors import UsageError


def record_of(*shape: int, num_experts: int = 6, num_chosen: int = 2, seed: int = 0) -> RoutingRecord:
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(*shape, 8, generator=generator)
    return route(u, torch.randn(num_experts, 8, generator=generator), num_chosen=num_chosen)


def test_counts_are_those_of_bincount():
    chosen = record_of(3, 7).chosen
    counts = expert_counts(chosen, num_experts=6)
    assert torch.equal(counts, torch.bincount(chosen.flatten(), minlength=6))
    mask = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    counts = expert_counts(chosen, num_experts=6, mask=mask)
    assert torch.equal(counts, torch.bincount(chosen[mask].flatten(), minlength=6))


def test_violation_and_entropy_of_even_and_lonely_load():
    counts = torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0], [0, 0, 0, 0], [10, 5, 5, 0]])
    assert max_violation(counts).tolist() == [0.0, 3.0, 0.0, 1.0]
    mixed = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(4)
    torch.testing.assert_close(
        load_entropy(counts), torch.tensor([1.0, 0.0, 0.0, mixed], dtype=torch.float64)
    )


def test_choice_entropy_lies_between_certain_and_even():
    even = torch.full((2, 3, 8), -math.log(8))
    assert float(choice_entropy(even)) == pytest.approx(math.log(8), rel=1e-6)
    mixed = even.clone()
    mixed[1] = torch.log_softmax(torch.tensor([200.0] + [0.0] * 7), dim=-1)
    mask = torch.tensor([[False] * 3, [True] * 3])
    assert float(choice_entropy(mixed, mask=mask)) == pytest.approx(0.0, abs=1e-6)


def test_overlap_of_neighbours():
    chosen = torch.tensor([[[0, 1], [1, 0], [1, 2], [3, 4]]])
    sets = chosen_mask(chosen, num_experts=5)
    assert sets.sum(-1).tolist() == [[2, 2, 2, 2]]
    assert float(adjacent_jaccard(sets)) == pytest.approx((1 + 1 / 3 + 0) / 3)
    split = Segments(document_BT=torch.tensor([[0, 0, 0, 1]]))
    assert float(adjacent_jaccard(sets, segments=split)) == pytest.approx((1 + 1 / 3) / 2)


def test_a_pair_needs_one_document_and_two_real_tokens():
    document = torch.tensor([[7, 7, 2, 7, 7], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, True]])
    values = torch.zeros(3, 2, 5, 4)
    given = Segments(document_BT=document, mask_BT=mask)
    ahead = {
        0: [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]],
        1: [[1, 0, 0, 1], [1, 1, 0, 0]],
        2: [[0, 0, 0], [1, 0, 1]],
    }
    for steps, expected in ahead.items():
        assert valid_pairs(values, ahead=steps, segments=given).int().tolist() == expected
    # The number 7 comes again after another document: three tokens on is not the same run.
    assert valid_pairs(values, ahead=3, segments=Segments(document_BT=document)).int().tolist() == [
        [0, 0],
        [1, 1],
    ]
    assert valid_pairs(values, ahead=9, segments=given).shape == (2, 0)
    assert valid_pairs(values, ahead=1, segments=None).all()


def test_segments_of_another_shape_are_refused():
    with pytest.raises(UsageError, match=r"mask_BT has the shape \(2, 4\), the tokens \(2, 5\)"):
        valid_pairs(
            torch.zeros(2, 5, 4), ahead=1, segments=Segments(mask_BT=torch.ones(2, 4, dtype=torch.bool))
        )


def test_a_window_forgets_its_oldest_step():
    window = LoadWindow(num_layers=1, num_experts=2, num_steps=2)
    assert window.max_violation().tolist() == [0.0]
    window.add(torch.tensor([[4, 0]]))
    assert window.max_violation().tolist() == [1.0]
    window.add(torch.tensor([[0, 4]]))
    assert window.max_violation().tolist() == [0.0]
    assert window.load_entropy().tolist() == [1.0]
    window.add(torch.tensor([[0, 4]]))
    assert window.counts_LE.tolist() == [[0, 8]]
    with pytest.raises(UsageError, match=r"counts of the shape \(2,\) for a window of \(1, 2\)"):
        window.add(torch.tensor([1, 2]))
    with pytest.raises(UsageError, match="a window of 0 steps"):
        LoadWindow(num_layers=1, num_experts=2, num_steps=0)
