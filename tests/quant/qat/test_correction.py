"""The low-rank correction: nothing at its start, gradients, what a file holds of it, its gate."""

import numpy as np
import pytest
import torch

from chimera.train.groups import adamw, set_rates
from quant.activations import quantize_activations
from quant.embedding import quantize_rows, rows_matmul
from quant.qat.correction import GATE_PENALTY, Correction, gate_penalty, gates_of
from quant.qat.linear import BitLinear, add_corrections, set_quant_mix


def corrected(*, rank: int = 24, learnt: bool = False) -> BitLinear:
    torch.manual_seed(0)
    layer = BitLinear(200, 40, norm=False)
    add_corrections(layer, rank=rank)
    if learnt:
        assert layer.correction is not None
        torch.nn.init.normal_(layer.correction.up)
        torch.nn.init.constant_(layer.correction.gate, -0.6)
    return layer


def tokens() -> torch.Tensor:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 200), dtype=np.float32))
    acts = quantize_activations(x.numpy())
    return torch.from_numpy((acts.codes.reshape(5, -1, 64) * acts.scales[..., None]).reshape(5, -1)[:, :200])


def test_at_its_start_it_gives_nothing_and_learns() -> None:
    layer, x = corrected(), tokens()
    plain = torch.nn.functional.linear(x, layer.quantized_weight())
    y = layer.project(x)
    assert torch.equal(y, plain)
    y.square().sum().backward()
    assert layer.correction is not None
    assert layer.correction.up.grad is not None
    assert layer.correction.up.grad.abs().sum() > 0


def test_a_gate_of_zero_is_the_layer_alone() -> None:
    layer, x = corrected(learnt=True), tokens()
    assert layer.correction is not None
    torch.nn.init.zeros_(layer.correction.gate)
    assert torch.equal(layer.project(x), torch.nn.functional.linear(x, layer.quantized_weight()))


def test_its_value_is_that_of_two_int8_products() -> None:
    layer, x = corrected(learnt=True), tokens()
    part = layer.correction
    assert part is not None
    down = quantize_rows(part.down.detach().numpy())
    up = quantize_rows(part.gated_up().detach().numpy())
    acts = quantize_activations(x.numpy())
    right = rows_matmul(up, quantize_activations(rows_matmul(down, acts)))
    assert np.allclose(part(x).detach().numpy(), right, rtol=1e-4, atol=1e-4)
    plain = torch.nn.functional.linear(x, layer.quantized_weight())
    assert torch.allclose(layer.project(x) - plain, torch.from_numpy(right), rtol=1e-3, atol=1e-3)


def test_gradients_are_those_of_the_float_product_and_of_its_gate() -> None:
    layer, x = corrected(learnt=True), tokens()
    part = layer.correction
    assert part is not None
    dy = torch.randn(5, 40)
    part(x).backward(dy)
    hidden = torch.nn.functional.linear(x, part.down_weight().detach())
    gate = torch.tanh(part.gate.detach())
    assert part.up.grad is not None
    assert part.gate.grad is not None
    assert torch.allclose(part.up.grad, gate * (dy.T @ hidden), rtol=0.05, atol=0.3)
    slope = (1 - gate**2) * (dy * (hidden @ part.up.detach().T)).sum()
    assert torch.allclose(part.gate.grad, slope, rtol=0.05, atol=0.3)


def test_a_twin_in_float_computes_in_float() -> None:
    layer, x = corrected(learnt=True), tokens()
    set_quant_mix(layer, 0.0)
    part = layer.correction
    assert part is not None
    right = x @ layer.weight.T + x @ part.down.T @ part.gated_up().T
    assert torch.allclose(layer.project(x), right, rtol=1e-5, atol=1e-5)


def test_the_penalty_pulls_gates_to_zero() -> None:
    layer = corrected(learnt=True)
    (gate,) = gates_of(layer)
    penalty = gate_penalty([gate])
    assert penalty.item() == pytest.approx(GATE_PENALTY * np.tanh(-0.6) ** 2)
    penalty.backward()
    assert gate.grad is not None
    assert gate.grad.item() < 0


def test_gates_that_no_longer_learn_stay_to_the_bit() -> None:
    layer = corrected(learnt=True)
    optimizer = adamw(layer, weight_decay=0.1)
    (gate,) = gates_of(layer)
    assert [group["gates"] for group in optimizer.param_groups] == [False, True]
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    for gates_learn in (True, False):
        set_rates(optimizer.param_groups, rate=0.1, decay=0.1, gates_learn=gates_learn)
        held = gate.detach().clone()
        (layer.project(tokens()).square().sum() + gate_penalty([gate])).backward()
        optimizer.step()
        assert torch.equal(gate, held) != gates_learn
    assert not any(torch.equal(value, before[name]) for name, value in layer.named_parameters())


def test_every_projection_gets_one_and_its_inputs_quantiser() -> None:
    module = torch.nn.ModuleDict({"a": BitLinear(64, 32, act_block="token"), "b": torch.nn.Linear(4, 4)})
    add_corrections(module, rank=3)
    found = [child for child in module.modules() if isinstance(child, Correction)]
    assert [(tuple(one.down.shape), tuple(one.up.shape), one.act_block) for one in found] == [
        ((3, 64), (32, 3), "token")
    ]
