"""SwiGLU: the formula, the shared input, the shapes of the published expert, compiling."""

import torch
import torch.nn.functional as F

from quant.qat.activations import quantized_activations
from quant.qat.linear import set_quant_mix
from quant.qat.swiglu import SwiGLU
from quant.qat.weights import quantized_weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_formula():
    layer = SwiGLU(96, 200)
    x_TD = gaussian(5, 96)
    assert layer.norm is not None
    assert layer.down_norm is not None
    shared = quantized_activations(layer.norm(x_TD))
    gate = shared @ quantized_weight(layer.gate_proj.weight).T
    up = shared @ quantized_weight(layer.up_proj.weight).T
    inner = quantized_activations(layer.down_norm(gate * torch.sigmoid(gate) * up))
    expected = inner @ quantized_weight(layer.down_proj.weight).T
    # A code at a border may turn with the last bit of silu: one step of one input.
    step = float(inner.abs().max()) / 127 * float(quantized_weight(layer.down_proj.weight).abs().max())
    torch.testing.assert_close(layer(x_TD), expected, rtol=1e-5, atol=2 * step)
    assert (layer(x_TD) - expected).abs().mean() < 0.01 * step


def test_without_quantisation_it_is_the_float_layer():
    layer = SwiGLU(96, 200)
    set_quant_mix(layer, 0)
    x_TD = gaussian(5, 96)
    assert layer.norm is not None
    normed = layer.norm(x_TD)
    inner = F.silu(normed @ layer.gate_proj.weight.T) * (normed @ layer.up_proj.weight.T)
    expected = F.rms_norm(inner, (200,), eps=1e-6) @ layer.down_proj.weight.T
    torch.testing.assert_close(layer(x_TD), expected)


def test_experts_share_a_norm_outside():
    inside, outside = SwiGLU(96, 200), SwiGLU(96, 200, norm=False)
    outside.load_state_dict(inside.state_dict(), strict=False)
    x_TD = gaussian(5, 96)
    assert inside.norm is not None
    assert outside.norm is None
    assert torch.equal(outside(quantized_activations(inside.norm(x_TD))), inside(x_TD))


def test_every_parameter_learns_with_a_short_last_group():
    layer = SwiGLU(64, 1728 // 8)
    layer(gaussian(9, 64)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_compiles_into_one_graph():
    layer = SwiGLU(96, 200)
    x_TD = gaussian(5, 96)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_TD), layer(x_TD), rtol=1e-5, atol=1e-5)
    compiled(x_TD).sum().backward()
    assert layer.gate_proj.weight.grad is not None
