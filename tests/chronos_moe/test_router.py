"""Scores, selection, weights and the balancing bias."""

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from chronos_moe.router import BIAS_RATE, LOG_SCORES, balance_bias, choose, route
from chronos_moe.statistics import LoadWindow, expert_counts, max_violation
from configs.errors import UsageError
from configs.schema.backbone import Routing

ROUTINGS: tuple[Routing, ...] = ("noaux_bias", "softmax")
SEEDS = st.integers(0, 2**31)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_routing_of_the_config_has_scores_and_a_rate():
    from typing import get_args

    assert set(LOG_SCORES) == set(BIAS_RATE) == set(get_args(Routing))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_scores_weights_and_probabilities_are_those_of_the_definition(routing: Routing):
    u, router = normal(3, 5, 16), normal(8, 16, seed=1)
    record = route(u, router, num_chosen=3, routing=routing)
    logits = u @ router.T
    scores = torch.sigmoid(logits) if routing == "noaux_bias" else torch.softmax(logits, -1)
    best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :3]
    picked = scores.gather(-1, best)
    torch.testing.assert_close(record.logits, logits)
    assert torch.equal(record.chosen, best)
    torch.testing.assert_close(record.weights, picked / picked.sum(-1, keepdim=True))
    torch.testing.assert_close(record.probs, scores / scores.sum(-1, keepdim=True))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, num_chosen=st.integers(1, 6), routing=st.sampled_from(ROUTINGS))
def test_the_bias_never_changes_the_weights_of_the_chosen_set(seed: int, num_chosen: int, routing: Routing):
    u, router, bias = normal(7, 16, seed=seed), normal(6, 16, seed=seed + 1), normal(6, seed=seed + 2)
    record = route(u, router, bias_E=bias, num_chosen=num_chosen, routing=routing)
    scores = torch.exp(LOG_SCORES[routing](u @ router.T))
    picked = scores.gather(-1, record.chosen)
    torch.testing.assert_close(record.weights, picked / picked.sum(-1, keepdim=True))
    plain = route(u, router, num_chosen=num_chosen, routing=routing)
    assert torch.equal(record.log_probs, plain.log_probs)
    assert torch.equal(record.chosen, choose(scores, bias_E=bias, num_chosen=num_chosen))


def test_a_strong_bias_decides_the_selection_and_takes_no_gradient():
    u, router = normal(9, 16), normal(6, 16, seed=1).requires_grad_()
    bias = torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0, 8.0], requires_grad=True)
    record = route(u, router, bias_E=bias, num_chosen=2)
    assert torch.equal(record.chosen, torch.tensor([4, 5]).expand(9, 2))
    record.weights[:, 0].sum().backward()
    assert bias.grad is None
    assert router.grad is not None
    assert router.grad.abs().max() > 0


def test_equal_scores_go_to_the_lower_id():
    assert choose(torch.zeros(4, 5), bias_E=None, num_chosen=3).tolist() == [[0, 1, 2]] * 4
    scores = torch.tensor([[0.1, 0.7, 0.2, 0.7, 0.7], [0.3, 0.2, 0.3, 0.3, 0.9]])
    assert choose(scores, bias_E=None, num_chosen=3).tolist() == [[1, 3, 4], [4, 0, 2]]
    wide = torch.zeros(2, 300)
    assert choose(wide, bias_E=None, num_chosen=4).tolist() == [[0, 1, 2, 3]] * 2


def test_the_router_stays_float32_under_autocast():
    u, router = normal(64, 32), normal(8, 32, seed=1)
    outside = route(u, router, num_chosen=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = route(u, router, num_chosen=2)
    for ours, theirs in zip(outside, inside, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    low = route(u.bfloat16(), router, num_chosen=2)
    assert low.logits.dtype == torch.float32
    assert torch.equal(low.logits, F.linear(u.bfloat16().float(), router))


def test_pressure_is_added_to_the_logits_before_the_scores():
    u, router = normal(9, 16), normal(6, 16, seed=1)
    pressure = 0.5 * normal(6, seed=2)
    record = route(u, router, num_chosen=2, logit_pressure_E=pressure)
    torch.testing.assert_close(record.logits, u @ router.T + pressure)
    scores = torch.sigmoid(record.logits)
    torch.testing.assert_close(record.probs, scores / scores.sum(-1, keepdim=True))
    none = route(u, router, num_chosen=2, logit_pressure_E=torch.zeros(6))
    for ours, theirs in zip(none, route(u, router, num_chosen=2), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_extreme_logits_give_finite_weights_and_gradients(routing: Routing):
    u = torch.tensor([[1e4], [-1e4], [3e37]], requires_grad=True)
    router = torch.tensor([[1.0], [-1.0], [0.5], [2.0]], requires_grad=True)
    record = route(u, router, num_chosen=2, routing=routing)
    assert torch.isfinite(record.weights).all()
    torch.testing.assert_close(record.weights.sum(-1), torch.ones(3))
    (record.weights[:, 0].sum() + record.probs.square().sum()).backward()
    assert u.grad is not None
    assert router.grad is not None
    assert torch.isfinite(u.grad).all()
    assert torch.isfinite(router.grad).all()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_gradients_of_weights_and_probabilities(routing: Routing):
    u = normal(4, 5, dtype=torch.float64).requires_grad_()
    router = normal(6, 5, seed=1, dtype=torch.float64).requires_grad_()

    def outputs(u: torch.Tensor, router: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        record = route(u, router, num_chosen=2, routing=routing)
        return record.weights, record.log_probs

    assert torch.autograd.gradcheck(outputs, (u, router))


def test_chosen_experts_can_be_reused():
    u, router, bias = normal(9, 16), normal(6, 16, seed=1), normal(6, seed=2)
    first = route(u, router, bias_E=bias, num_chosen=2)
    again = route(u, router, bias_E=-bias, num_chosen=2, chosen=first.chosen)
    for ours, theirs in zip(first, again, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match=r"\(9, 1\), but the tokens need \(9, 2\)"):
        route(u, router, num_chosen=2, chosen=first.chosen[:, :1])


def test_impossible_numbers_of_experts_are_refused():
    for num_chosen in (0, 7):
        with pytest.raises(UsageError, match=f"{num_chosen} experts per token asked of 6"):
            route(normal(9, 16), normal(6, 16), num_chosen=num_chosen)


def test_the_bias_moves_towards_idle_experts_by_one_step():
    bias = torch.tensor([0.5, 0.0, 0.0, -0.25])
    balance_bias(bias, torch.tensor([10, 2, 6, 6]), rate=1e-3)
    torch.testing.assert_close(bias, torch.tensor([0.499, 0.001, 0.0, -0.25]), rtol=0, atol=1e-9)


def test_whole_numbers_decide_a_tie_with_the_mean():
    bias = torch.zeros(3)
    huge = 2**40 + 1
    balance_bias(bias, torch.tensor([huge, huge, huge]), rate=1.0)
    assert bias.tolist() == [0.0, 0.0, 0.0]
    balance_bias(bias, torch.tensor([huge, huge + 1, huge - 1]), rate=1.0)
    assert bias.tolist() == [0.0, -1.0, 1.0]


def test_counts_of_another_shape_or_type_are_refused():
    with pytest.raises(UsageError, match=r"counts of \(3,\) for a bias of \(4,\)"):
        balance_bias(torch.zeros(4), torch.zeros(3, dtype=torch.int64), rate=1e-3)
    with pytest.raises(UsageError, match=r"whole numbers, got torch\.float32"):
        balance_bias(torch.zeros(4), torch.zeros(4), rate=1e-3)


def balance_in_a_group(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    bias = torch.zeros(3)
    # Rank 0 alone would lift expert 2, rank 1 alone expert 0; together only expert 1 lies below the mean.
    counts = torch.tensor([[9, 2, 1], [1, 2, 9]])[rank]
    balance_bias(bias, counts, rate=0.5)
    torch.save((bias, counts), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_balance_the_global_batch(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(balance_in_a_group, args=(port, str(tmp_path)), nprocs=2)
    for rank, own in enumerate(([9, 2, 1], [1, 2, 9])):
        bias, counts = torch.load(tmp_path / f"{rank}.pt")
        assert bias.tolist() == [-0.5, 0.5, -0.5]
        assert counts.tolist() == own, "the caller's counts are left as they were"


def test_loss_free_balancing_balances_a_biased_router():
    """16 experts, a router that prefers some of them, 4096 new tokens a step, no gradient at all."""
    generator = torch.Generator().manual_seed(0)
    num_experts, width = 16, 32
    router = torch.randn(num_experts, width, generator=generator) / width**0.5
    preference = 0.5 * torch.randn(num_experts, generator=generator)
    bias = torch.zeros(num_experts)
    first, window = 0.0, LoadWindow(num_layers=1, num_experts=num_experts, num_steps=50)
    for step in range(300):
        u = torch.randn(4096, width, generator=generator)
        record = route(u, router, bias_E=bias, num_chosen=2, logit_pressure_E=preference)
        counts = expert_counts(record.chosen, num_experts=num_experts)
        first = float(max_violation(counts)) if step == 0 else first
        window.add(counts[None])
        balance_bias(bias, counts, rate=BIAS_RATE["noaux_bias"])
    assert first > 0.8
    assert float(window.max_violation()) < 0.05
    assert float(max_violation(counts)) < 0.25, "one batch keeps its chance"
