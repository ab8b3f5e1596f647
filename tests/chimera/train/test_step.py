"""One optimiser step: means however the rows lie, states that go on, and keys of a config that act in it."""

import math
from typing import Any

import pytest
import torch

from chimera.mixers.packing import Packing
from chimera.train.carried import rounds_of, state_of, tensors_of
from chimera.train.step import StepOptions, TrainStep
from configs.errors import UsageError
from tests.chimera.train.steps import (
    QUIET,
    batch_of,
    cut_rows,
    cut_tokens,
    fresh_step,
    grads_of,
    rows_of_chance,
    same,
    weights_of,
)

CLOSE = 2e-5
"""Sums of some thousand float32 numbers in another order."""


def assert_grads_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    whole = math.sqrt(sum(grad.square().sum().item() for grad in other.values()))
    apart = math.sqrt(sum((grad - other[name]).square().sum().item() for name, grad in one.items()))
    assert whole > 0
    assert apart < CLOSE * whole


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (1, 1, 1, 1)])
def test_the_loss_is_the_mean_over_labelled_tokens_however_rows_lie(sizes: tuple[int, ...]):
    step, batch = fresh_step(QUIET, ternary=False, grad_clip=None), rows_of_chance(4, 24)
    whole = step.run([batch], step=0, apply=False)
    whole_grads = grads_of(step)
    parts = step.run(cut_rows(batch, sizes), step=0, apply=False)
    assert parts.num_tokens == whole.num_tokens == batch.num_labels
    assert parts.num_bytes == whole.num_bytes == batch.num_bytes
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert torch.equal(parts.counts_LE, whole.counts_LE)
    assert_grads_close(grads_of(step), whole_grads)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=CLOSE)


def test_a_batch_without_labels_changes_nothing_of_its_step():
    step, batch = fresh_step(QUIET, ternary=False, grad_clip=None), rows_of_chance(2, 24)
    alone = step.run([batch], step=0, apply=False)
    grads = grads_of(step)
    silent = batch_of(batch.ids_BT, torch.full_like(batch.labels_BT, -100), batch.resets_BT)
    both = step.run([batch, silent], step=0, apply=False)
    assert both.loss == alone.loss
    assert same(grads_of(step), grads)


def test_routing_losses_are_means_over_batches():
    changes = {"looping": QUIET["looping"]}
    step = fresh_step(changes, ternary=False, grad_clip=None)
    # Every token has a label and every row is one document, so that all rows have as many pairs.
    plain = rows_of_chance(4, 24, borders=False)
    batch = batch_of(plain.ids_BT, plain.ids_BT.roll(-1, dims=1), plain.resets_BT)
    whole = step.run([batch], step=0, apply=False)
    grads = grads_of(step)
    parts = step.run(cut_rows(batch, (2, 2)), step=0, apply=False)
    assert set(whole.terms) == {"balance", "temporal", "lookahead"}
    assert all(value > 0 for value in whole.terms.values())
    assert parts.terms == pytest.approx(whole.terms, rel=1e-5)
    assert_grads_close(grads_of(step), grads)


def test_a_routing_loss_without_weight_is_not_logged():
    result = fresh_step({"chronos": {"lambda_temporal": 0.0}}).run([rows_of_chance(1, 8)], step=0)
    assert set(result.terms) == {"balance", "lookahead"}
    result = fresh_step({"backbone": {"moe": {"enabled": False}}}).run([rows_of_chance(1, 8)], step=0)
    assert result.terms == {}
    assert result.counts_LE is None


def test_steps_learn():
    step, batch = fresh_step(QUIET, rate=3e-3), rows_of_chance(2, 24)
    losses = [step.run([batch], step=number).loss for number in range(12)]
    assert losses[-1] < losses[0] - 0.5


KEYS: dict[str, dict[str, Any]] = {
    "chronos.lambda_balance": {"chronos": {"lambda_balance": 0.5}},
    "chronos.lambda_temporal": {"chronos": {"lambda_temporal": 0.5}},
    "chronos.lambda_lookahead": {"chronos": {"lambda_lookahead": 0.5}},
    "chronos.expert_dropout": {"chronos": {"expert_dropout": 0.5}},
    "backbone.moe.bias_update_rate": {"backbone": {"moe": {"bias_update_rate": 0.01}}},
    "looping.depth_selection": {"looping": {"depth_selection": "fixed"}},
}
"""Key of a config that acts in a step → another value."""


def after_three(changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    step = fresh_step(changes)
    for number in range(3):
        step.run([rows_of_chance(2, 16, seed=number)], step=number)
    return weights_of(step)


@pytest.fixture(scope="module")
def plain_weights() -> dict[str, torch.Tensor]:
    return after_three({})


@pytest.mark.parametrize("key", KEYS)
def test_each_key_changes_what_is_learnt(key: str, plain_weights: dict[str, torch.Tensor]):
    after = after_three(KEYS[key])
    differ = {name for name, value in after.items() if not torch.equal(value, plain_weights[name])}
    assert differ
    if key == "backbone.moe.bias_update_rate":
        assert any("router_bias" in name for name in differ)


def test_the_same_steps_give_the_same_weights(plain_weights: dict[str, torch.Tensor]):
    assert same(after_three({}), plain_weights)


def test_dropped_experts_are_drawn_by_step_and_batch():
    step = fresh_step({"chronos": {"expert_dropout": 0.5}})
    drawn = [step._experts(*place) for place in ((0, 0), (0, 0), (0, 1), (1, 0), (2, 0), (3, 0))]
    masks = [one.available_LE for one in drawn if one is not None and one.available_LE is not None]
    assert torch.equal(masks[0], masks[1])
    assert any(not torch.equal(masks[0], mask) for mask in masks[2:])


def test_rounds_are_drawn_by_step_and_seed():
    step = fresh_step()
    drawn = [tuple(step._depths(number, 4)) for number in range(20)]
    assert drawn == [tuple(step._depths(number, 4)) for number in range(20)]
    assert len(set(drawn)) > 3
    assert {rounds for one in drawn for rounds in one} == {1, 2, 3, 4}
    other = fresh_step(seed=1)
    assert drawn != [tuple(other._depths(number, 4)) for number in range(20)]


@pytest.mark.parametrize("seed", [2**63 - 1, 2**62 + 5])
def test_any_seed_of_a_run_draws(seed: int):
    step = fresh_step({"chronos": {"expert_dropout": 0.5}}, seed=seed)
    assert step.run([rows_of_chance(1, 8)], step=10**9).finite


def test_checkpointing_changes_no_bit():
    results: list[list[float]] = []
    weights: list[dict[str, torch.Tensor]] = []
    for checkpointing in (False, True):
        step = fresh_step(options=StepOptions(checkpointing=checkpointing))
        results.append(
            [step.run([rows_of_chance(2, 16, seed=number)], step=number).loss for number in range(3)]
        )
        weights.append(weights_of(step))
    assert results[0] == results[1]
    assert same(weights[0], weights[1])


def test_a_head_by_chunks_gives_the_same_loss():
    losses = [
        fresh_step(QUIET, options=StepOptions(head_chunk=chunk)).run([rows_of_chance(2, 16)], step=0).loss
        for chunk in (None, 100)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_gradients_are_clipped_to_the_norm_and_reported_before():
    free, bound = fresh_step(QUIET, grad_clip=None), fresh_step(QUIET, grad_clip=0.01)
    results = [step.run([rows_of_chance(2, 16)], step=0, apply=False) for step in (free, bound)]
    assert results[0].grad_norm == results[1].grad_norm > 0.1
    norm = math.sqrt(sum(grad.square().sum().item() for grad in grads_of(bound).values()))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_a_step_that_is_no_number_is_not_applied():
    step = fresh_step()
    step.run([rows_of_chance(1, 16)], step=0)
    with torch.no_grad():
        step.model.final_norm.weight[3] = math.nan
    before = weights_of(step)
    moments = [{name: value.clone() for name, value in one.items()} for one in step.optimizer.state.values()]
    result = step.run([rows_of_chance(1, 16, seed=1)], step=1)
    assert not result.finite
    del before["final_norm.weight"]
    after = {name: value for name, value in weights_of(step).items() if name in before}
    assert same(after, before)
    for one, other in zip(moments, step.optimizer.state.values(), strict=True):
        assert same(one, other)


def test_a_step_without_labels_is_refused():
    batch = rows_of_chance(1, 8)
    with pytest.raises(UsageError, match="step 7 has no token to learn from"):
        fresh_step().run([batch_of(batch.ids_BT, torch.full_like(batch.labels_BT, -100), None)], step=7)


def carried(step: TrainStep, parts: list[Any]) -> list[Any]:
    step.state = None
    return [step.run([part], step=number, carry=True, apply=False) for number, part in enumerate(parts)]


def test_carried_states_make_two_steps_one_row():
    """What a step sees is the whole row; what its gradients go through is its own part."""
    step, row = fresh_step(QUIET, ternary=False, grad_clip=None), rows_of_chance(2, 64)
    parts = cut_tokens(row, 32)
    first, second = carried(step, parts)
    grads = grads_of(step)
    whole = step.run([row], step=0, apply=False)
    total = first.loss * first.num_tokens + second.loss * second.num_tokens
    assert total / whole.num_tokens == pytest.approx(whole.loss, rel=1e-5)
    alone = step.run([parts[1]], step=0, apply=False)
    assert abs(alone.loss - second.loss) > 1e-4

    model, (before, here) = step.model, parts
    with torch.no_grad():
        past = model(before.ids_BT, packing=Packing(before.resets_BT, 33), rounds=2).state
    model.zero_grad()
    output = model(here.ids_BT, state=past, packing=Packing(here.resets_BT, 33), rounds=2)
    model.loss(output.hidden_BTD, here.labels_BT).backward()
    assert_grads_close(grads_of(step), grads)


def test_a_carried_text_keeps_its_rounds():
    step, row = fresh_step(), rows_of_chance(1, 64)
    parts = cut_tokens(row, 8)
    drawn = [step._depths(number, 1)[0] for number in range(8)]
    assert len(set(drawn)) > 1
    for number, part in enumerate(parts):
        step.run([part], step=number, carry=True, apply=False)
        assert step.state is not None
        assert rounds_of(step.state) == drawn[0]


def test_a_state_comes_back_from_its_tensors():
    step, parts = fresh_step(), cut_tokens(rows_of_chance(2, 32), 16)
    carried(step, parts)
    assert step.state is not None
    held = step.state
    again = state_of(step.model, tensors_of(held), rounds=rounds_of(held))
    assert type(again) is type(held)
    found = step.run([parts[1]], step=2, carry=True, apply=False).loss
    step.state = again
    assert step.run([parts[1]], step=2, carry=True, apply=False).loss == found


def test_states_of_other_rows_are_refused():
    step = fresh_step()
    step.run([rows_of_chance(2, 8)], step=0, carry=True)
    with pytest.raises(UsageError, match="the same rows at every step"):
        step.run([rows_of_chance(1, 8)], step=1, carry=True)
