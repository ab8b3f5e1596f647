"""Experts decided some layers earlier: who decides, and that streams, depths and cuts see no difference."""

from functools import lru_cache

import pytest
import torch

from chimera.model import ChimeraForCausalLM, build
from configs.inventory import layers, tensors
from configs.load import build_config
from configs.schema.model import ModelConfig
from quant.qat.linear import set_quant_mix


def config_of(ahead: int, *, preset: str = "micro", enabled: bool = True) -> ModelConfig:
    """Experts in all layers but the first of micro; in the demo's own."""
    own = {"layers": [1, 2, 3]} if preset == "micro" else {}
    raw = {
        "preset": preset,
        "backbone": {"moe": {"enabled": True, "route_ahead": ahead, **own}},
        **({} if enabled else {"looping": {"enabled": False}}),
    }
    return build_config(raw, source="test")


@lru_cache(maxsize=1)
def decided() -> ChimeraForCausalLM:
    """A model of micro's size whose routers mean it, in float."""
    torch.manual_seed(3)
    model = build(config_of(1)).eval()
    set_quant_mix(model, 0.0)
    with torch.no_grad():
        for layer in (1, 2, 3):
            model.layers[layer].ffn.router.mul_(30)
    return model


def text(*, rows: int = 2, tokens: int = 24) -> torch.Tensor:
    return torch.randint(512, (rows, tokens), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ahead", "sources"),
    [
        (0, {3: None, 7: None}),
        (1, {3: 2, 7: 6}),  # inside the loop of layers 2 to 5, and behind it
        (2, {3: 1, 7: 5}),  # before the loop, and its result
        (4, {3: 0, 7: 5}),  # layer 3 of the loop is no result, so what left the loop decides
        (6, {3: 0, 7: 1}),
        (9, {3: 0, 7: 0}),
    ],
)
def test_a_layer_so_many_before_decides(ahead: int, sources: dict[int, int | None]):
    config = config_of(ahead, preset="demo")
    assert {layer.index: layer.decided_behind for layer in layers(config) if layer.experts} == sources
    assert tensors(config) == tensors(config_of(0, preset="demo"))


def test_without_a_loop_nothing_stands_between():
    found = [layer.decided_behind for layer in layers(config_of(2, preset="demo", enabled=False))]
    assert [found[3], found[7]] == [1, 5]


@torch.no_grad()
@pytest.mark.parametrize("exit_threshold", [0.0, 0.6])
def test_a_prompt_at_once_equals_its_tokens_one_by_one(exit_threshold: float):
    model, ids = decided(), text(tokens=9)
    whole = model(ids, rounds=3, exit_threshold=exit_threshold)
    state, steps = model.initial_state(2, rounds=3), []
    for token in ids.split(1, dim=1):
        output = model(token, state=state, rounds=3, exit_threshold=exit_threshold)
        state = output.state
        steps.append(output.hidden_BTD)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole.hidden_BTD, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rows_of_different_depth_equal_rows_run_alone():
    model, ids = decided(), text(rows=3)
    together = model(ids, rounds=[1, 3, 2])
    for row, rounds in enumerate((1, 3, 2)):
        alone = model(ids[row : row + 1], rounds=rounds)
        torch.testing.assert_close(
            together.hidden_BTD[row], alone.hidden_BTD[0], rtol=1e-4, atol=1e-4, msg=f"row {row}"
        )


@torch.no_grad()
def test_what_is_decided_before_the_loop_holds_for_all_rounds():
    chosen = {(one.layer, one.round): one.record.chosen for one in decided()(text(), rounds=3).routing}
    assert all(torch.equal(chosen[1, 0], chosen[1, later]) for later in (1, 2))
    assert not all(torch.equal(chosen[2, 0], chosen[2, later]) for later in (1, 2))


def test_the_routers_learn_and_so_do_those_who_decide():
    model = build(config_of(1)).train()
    output = model(text(), rounds=2)
    model.loss(output.hidden_BTD, text()).backward()
    for layer in (1, 2, 3):
        grad = model.layers[layer].ffn.router.grad
        assert grad is not None
        assert grad.abs().sum() > 0
