"""BitLinear: the packed product, gradients as the formulas, the gradual mix, autocast, compiling."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from configs.errors import UsageError
from quant.activations import ActBlock, quantize_activations
from quant.qat.activations import RMSNorm, norm_quant, quantized_activations
from quant.qat.linear import BitLinear, export_ternary, set_quant_mix, soft_clip
from quant.qat.weights import quantized_weight, ternary_scales
from quant.ternary import GroupSize, dequantize_ternary, ternary_matmul


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(num_inputs: int = 300, num_outputs: int = 40, **settings) -> BitLinear:
    torch.manual_seed(0)
    linear = BitLinear(num_inputs, num_outputs, **settings)
    if linear.norm is not None:
        nn.init.uniform_(linear.norm.weight, 0.5, 2)
    return linear


def sum_bound(a_TI: torch.Tensor, b_OI: torch.Tensor) -> torch.Tensor:
    """How far a float32 matrix product may be from the exact one: its length × ε × Σ|a||b|."""
    length = a_TI.shape[-1] + 2
    return length * 2.0**-24 * (a_TI.double().abs() @ b_OI.double().abs().T)


def assert_product(y_TO: torch.Tensor, a_TI: torch.Tensor, b_OI: torch.Tensor) -> None:
    exact = a_TI.double() @ b_OI.double().T
    assert ((y_TO.double() - exact).abs() <= sum_bound(a_TI, b_OI)).all()


@pytest.mark.parametrize("group_size", [128, 64, "row", "tensor"])
@pytest.mark.parametrize("act_block", [64, "token"])
def test_forward_is_the_packed_product(group_size: GroupSize, act_block: ActBlock):
    linear = seeded(group_size=group_size, act_block=act_block)
    assert linear.norm is not None
    x_TI = gaussian(7, 300) * 3
    with torch.no_grad():
        normed, y_TO = linear.norm(x_TI), linear(x_TI)
    acts = quantize_activations(normed.numpy(), block=act_block)
    packed = torch.from_numpy(ternary_matmul(export_ternary(linear), acts))
    a_TI = quantized_activations(normed, block=act_block)
    b_OI = linear.quantized_weight().detach()
    assert_product(y_TO, a_TI, b_OI)
    # The packed product rounds a product and a sum a block more.
    assert ((packed - y_TO).double().abs() <= 2 * sum_bound(a_TI, b_OI)).all()


def test_gradients_are_those_of_a_dense_layer_with_the_quantised_operands():
    linear = seeded(norm=False)
    x_TI = gaussian(7, 300).requires_grad_()
    dy_TO = gaussian(7, 40, seed=1)
    linear(x_TI).backward(dy_TO)
    assert x_TI.grad is not None
    assert linear.weight.grad is not None
    assert_product(x_TI.grad, dy_TO, quantized_weight(linear.weight).T)
    assert_product(linear.weight.grad, dy_TO.T, quantized_activations(x_TI).T)


def test_the_gradient_passes_through_the_norm():
    linear = seeded()
    assert linear.norm is not None
    x_TI, dy_TO = gaussian(7, 300), gaussian(7, 40, seed=1)
    x_TI.requires_grad_()
    linear(x_TI).backward(dy_TO)
    other = x_TI.detach().clone().requires_grad_()
    linear.norm(other).backward(dy_TO @ quantized_weight(linear.weight))
    assert x_TI.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(x_TI.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_one_norm_serves_several_projections():
    norm = RMSNorm(300)
    query, key = seeded(norm=False), seeded(num_outputs=24, norm=False)
    x_TI = gaussian(7, 300)
    shared = norm_quant(x_TI, norm)
    assert torch.equal(query.project(shared), query(norm(x_TI)))
    assert torch.equal(key.project(shared), key(norm(x_TI)))


def test_without_quantisation_it_is_the_float_layer_with_a_norm():
    linear = seeded()
    assert linear.norm is not None
    set_quant_mix(linear, 0)
    x_TI = gaussian(7, 300)
    assert torch.equal(linear(x_TI), F.linear(linear.norm(x_TI), linear.weight))


def test_the_mix_is_set_changed_and_removed():
    model = nn.Sequential(seeded(), nn.Linear(40, 300), seeded())
    fully = model(gaussian(7, 300))
    set_quant_mix(model, 0.5)
    buffer = model[0].quant_mix
    half = model(gaussian(7, 300))
    set_quant_mix(model, 1)
    assert model[0].quant_mix is buffer
    assert not torch.equal(half, fully)
    assert torch.equal(model(gaussian(7, 300)), fully)
    assert not [name for name in model.state_dict() if "mix" in name]
    set_quant_mix(model, None)
    assert model[0].quant_mix is None
    assert torch.equal(model(gaussian(7, 300)), fully)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="must lie in 0"):
            set_quant_mix(model, wrong)


def test_the_scale_of_the_input_does_not_matter():
    linear = seeded()
    x_TI = gaussian(7, 300)
    # By a power of two even the bits stay, as far as eps is below them.
    torch.testing.assert_close(linear(x_TI * 1000), linear(x_TI), rtol=0, atol=2e-3)
    assert (linear(x_TI * 1000) - linear(x_TI)).abs().mean() < 1e-4


def test_masked_weights_stay_bit_identical():
    with pytest.warns(UserWarning, match="they are trapped at zero"):
        linear = seeded(mask_deep_zeros=True)
    before = linear.weight.detach().clone()
    deep = before.abs() < 0.3 * ternary_scales(before).repeat_interleave(128, dim=1)[:, :300]
    optimiser = torch.optim.SGD(linear.parameters(), lr=1e-4)
    for step in range(3):
        optimiser.zero_grad()
        linear(gaussian(7, 300, seed=step)).square().mean().backward()
        optimiser.step()
    same = linear.weight.detach() == before
    scales_now = ternary_scales(linear.weight).repeat_interleave(128, dim=1)[:, :300]
    still_deep = deep & (before.abs() < 0.3 * scales_now)
    assert still_deep.float().mean() > 0.15
    assert same[still_deep].all()
    assert not same[~deep].all()


def test_without_masking_there_is_no_warning_and_all_weights_move():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear = seeded()
    linear(gaussian(64, 300)).square().mean().backward()
    assert linear.weight.grad is not None
    assert (linear.weight.grad != 0).all()


@pytest.mark.parametrize("group_size", [128, 100, "row", "tensor"])
def test_what_is_exported_is_what_forward_uses(group_size: GroupSize):
    linear = seeded(group_size=group_size)
    exported = export_ternary(linear)
    assert exported.codes.dtype == np.int8
    assert exported.scales.dtype == np.float16
    assert np.array_equal(dequantize_ternary(exported), linear.quantized_weight().detach().numpy())


def test_a_mixed_layer_is_not_exported():
    linear = seeded()
    set_quant_mix(linear, 0.25)
    with pytest.raises(UsageError, match=r"quantisation mix of 0\.25"):
        export_ternary(linear)
    set_quant_mix(linear, 1)
    assert export_ternary(linear).codes.shape == (40, 300)


def test_soft_clip_meets_every_ternary_weight_and_no_other():
    model = nn.Sequential(seeded(), nn.Linear(40, 3))
    before = copy.deepcopy(model)
    soft_clip(model)
    assert not torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[0].norm.weight, before[0].norm.weight)
    assert torch.equal(model[1].weight, before[1].weight)


def test_autocast_changes_the_product_and_not_the_numbers():
    linear = seeded()
    assert linear.norm is not None
    x_TI = gaussian(7, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear.quantized_weight(), quantized_weight(linear.weight))
        assert linear.quantized_weight().dtype == torch.float32
        assert torch.equal(norm_quant(x_TI, linear.norm), quantized_activations(linear.norm(x_TI)))
        y_TO = linear(x_TI.bfloat16())
        y_TO.float().sum().backward()
    assert y_TO.dtype == torch.bfloat16
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.float32
    exact = linear(x_TI.bfloat16())
    # bfloat16 has 8 bits: two rounded operands and a rounded result.
    bound = (
        3
        * 2.0**-8
        * (quantized_activations(linear.norm(x_TI)).abs() @ quantized_weight(linear.weight).abs().T)
    )
    assert ((y_TO.float() - exact).abs() <= bound).all()


@pytest.mark.parametrize("settings", [{}, {"group_size": "row", "act_block": "token"}, {"norm": False}])
def test_it_compiles_into_one_graph(settings: dict):
    linear = seeded(**settings)
    x_TI = gaussian(2, 5, 300).requires_grad_()
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_TI), linear(x_TI), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(compiled(x_TI).square().sum(), [x_TI, linear.weight])
    expected = torch.autograd.grad(linear(x_TI).square().sum(), [x_TI, linear.weight])
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_new_mix_needs_no_new_graph():
    linear = seeded()
    set_quant_mix(linear, 0.0)
    counter = CompileCounter()
    compiled = torch.compile(linear, fullgraph=True, backend=counter)
    x_TI = gaussian(7, 300)
    for mix in (0.0, 0.3, 1.0):
        set_quant_mix(linear, mix)
        assert torch.equal(compiled(x_TI), linear(x_TI))
    assert counter.frame_count == 1


def test_weights_can_be_made_on_no_device_first():
    linear = BitLinear(300, 40, device=torch.device("meta"))
    linear.to_empty(device="cpu")
    linear.reset_parameters()
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
