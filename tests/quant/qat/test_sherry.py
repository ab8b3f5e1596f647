"""Sherry in training: the reference's numbers, straight-through gradients, Arenas and its end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chronos_moe.experts import ExpertLinear
from configs.errors import UsageError
from quant.activations import quantize_activations
from quant.qat.linear import BitLinear, export_ternary, set_quant_mix
from quant.qat.sherry import ARENAS_SHARE, ARENAS_START, arenas_at, quantized_sherry, set_arenas, use_sherry
from quant.sherry import obeys_three_of_four, quantize_sherry
from quant.ternary import dequantize_ternary, ternary_matmul


def linear(num_inputs: int = 200, num_outputs: int = 40, **settings) -> BitLinear:
    torch.manual_seed(0)
    made = BitLinear(num_inputs, num_outputs, **settings)
    use_sherry(made)
    return made


@settings(max_examples=40, deadline=None)
@given(
    num_inputs=st.integers(1, 300),
    group_size=st.sampled_from([128, 64, "row", "tensor"]),
    seed=st.integers(0, 99),
)
def test_the_numbers_are_the_references(num_inputs: int, group_size, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (np.round(rng.standard_normal((7, num_inputs)) * 3) / 4).astype(np.float32)
    right = dequantize_ternary(quantize_sherry(weight, group_size=group_size))
    assert np.array_equal(quantized_sherry(torch.from_numpy(weight), group_size=group_size).numpy(), right)
    stacked = torch.from_numpy(weight).expand(3, 7, num_inputs)
    assert np.array_equal(quantized_sherry(stacked, group_size=group_size)[1].numpy(), right)


def test_the_forward_pass_is_the_packed_product() -> None:
    layer = linear(act_block="token").eval()
    x_TI = torch.randn(5, 200)
    exported = export_ternary(layer)
    assert obeys_three_of_four(exported.codes)
    assert np.array_equal(dequantize_ternary(exported), layer.quantized_weight().detach().numpy())
    assert layer.norm is not None
    acts = quantize_activations(layer.norm(x_TI).detach().numpy(), block="token")
    packed = torch.from_numpy(ternary_matmul(exported, acts))
    assert torch.allclose(layer(x_TI), packed, rtol=1e-5, atol=1e-6)


def test_arenas_adds_the_latent_product_and_its_gradients() -> None:
    layer = linear(norm=False)
    set_arenas(layer, 0.25)
    x = torch.randn(6, 200, requires_grad=True)
    dy = torch.randn(6, 40)
    layer.project(x).backward(dy)
    assert x.grad is not None
    assert layer.weight.grad is not None
    value, latent = quantized_sherry(layer.weight), layer.weight.detach()
    assert torch.allclose(layer.project(x), x @ (value + 0.25 * latent).T, rtol=1e-5, atol=1e-5)
    assert torch.allclose(x.grad, dy @ (value + 0.25 * latent), rtol=1e-5, atol=1e-5)
    assert torch.allclose(layer.weight.grad, 1.25 * dy.T @ x.detach(), rtol=1e-5, atol=1e-5)


def test_arenas_raises_the_rank_of_the_gradient() -> None:
    """Rows that have grown alike give one gradient; their latent weights tell them apart."""
    layer = linear(norm=False, num_outputs=64)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1] * (1 + 0.01 * torch.rand_like(layer.weight)))

    def rank() -> int:
        x = torch.zeros(64, 200, requires_grad=True)
        layer.project(x).backward(torch.eye(64))
        assert x.grad is not None
        values = torch.linalg.svdvals(x.grad)
        return int((values > 1e-5 * values[0]).sum())

    before = rank()
    set_arenas(layer, 0.1)
    assert rank() > 2 * before


def test_nothing_of_arenas_is_left_at_its_end_nor_in_a_measure() -> None:
    layer, x = linear(), torch.randn(3, 200)
    plain = layer(x)
    set_arenas(layer, 0.1)
    assert not torch.equal(layer(x), plain)
    assert torch.equal(layer.eval()(x), plain)
    set_arenas(layer.train(), 0.0)
    assert torch.equal(layer(x), plain)
    assert "arenas" not in layer.state_dict()


def test_matrices_share_one_weight_of_arenas_which_changes_in_place() -> None:
    module = torch.nn.Sequential(linear(), linear(), ExpertLinear(64, 32, num_experts=2))
    use_sherry(module)
    set_arenas(module, 0.1)
    shared = {child.arenas.data_ptr() for child in module}
    set_arenas(module, 0.05)
    assert {child.arenas.data_ptr() for child in module} == shared
    assert len(shared) == 1
    assert module[2].arenas == torch.tensor(0.05)
    set_arenas(module, None)
    assert [child.arenas for child in module] == [None] * 3


def test_the_course_of_arenas() -> None:
    assert arenas_at(0.0) == ARENAS_START == 0.1
    assert arenas_at(ARENAS_SHARE / 2) == pytest.approx(0.05)
    assert arenas_at(ARENAS_SHARE) == arenas_at(1.0) == 0.0


def test_experts_have_the_numbers_of_linear_layers() -> None:
    experts = ExpertLinear(130, 9, num_experts=3)
    use_sherry(experts)
    for expert, weight in enumerate(experts.weight.detach()):
        assert torch.equal(experts.quantized_weight()[expert], quantized_sherry(weight))


def test_a_float_twin_and_a_compiled_layer() -> None:
    layer, x = linear(), torch.randn(3, 200)
    set_arenas(layer, 0.1)
    compiled = torch.compile(layer.forward, fullgraph=True, backend="aot_eager", dynamic=False)
    for weight in (0.1, 0.0):
        set_arenas(layer, weight)
        assert torch.equal(compiled(x), layer(x))
    set_arenas(layer, None)
    set_quant_mix(layer, 0.0)
    assert torch.equal(layer.quantized_weight(), layer.weight)


def test_groups_that_cut_four_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 4"):
        use_sherry(BitLinear(64, 8, group_size=130))
