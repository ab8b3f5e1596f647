"""On a GPU, eager and compiled: the same codes and scales as on the CPU, which is what is exported."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from quant.embedding import dequantize_rows, quantize_rows
from quant.qat.activations import quantized_activations
from quant.qat.embedding import quantized_rows
from quant.qat.linear import BitLinear, export_ternary, set_quant_mix
from quant.qat.swiglu import SwiGLU
from quant.qat.weights import quantized_weight, round_to_half
from quant.ternary import GroupSize, dequantize_ternary, quantize_ternary

pytestmark = [
    pytest.mark.gpu,
    # Some releases of PyTorch call a part of their own that they have deprecated when they compile.
    pytest.mark.filterwarnings("ignore:.*torch\\.jit.* is deprecated:DeprecationWarning"),
]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_is(function: Callable) -> Callable:
    return function


FORMS = [pytest.param(as_is, id="eager"), pytest.param(torch.compile, id="compiled")]


@pytest.mark.parametrize("form", FORMS)
def test_rounding_to_half(form: Callable):
    halves = torch.arange(1, 0x7C00, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    ties = (halves[1:] + halves[:-1]) / 2
    for values in (halves, ties, torch.nextafter(ties, torch.tensor(0.0))):
        assert torch.equal(form(round_to_half)(values.cuda()).cpu(), values.half().float())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group_size", [128, "row", "tensor"])
@pytest.mark.parametrize("shape", [(2560, 2560), (384, 1728)])
def test_weights_are_the_reference_to_the_bit(form: Callable, group_size: GroupSize, shape: tuple[int, int]):
    weight = gaussian(*shape) * 0.02
    value = form(quantized_weight)(weight.cuda(), group_size=group_size).cpu().numpy()
    assert np.array_equal(value, dequantize_ternary(quantize_ternary(weight.numpy(), group_size=group_size)))


@pytest.mark.parametrize("form", FORMS)
def test_what_a_layer_on_the_gpu_uses_is_exported(form: Callable):
    linear = BitLinear(1728, 512).cuda()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        used = form(BitLinear.quantized_weight)(linear)
    assert np.array_equal(used.cpu().numpy(), dequantize_ternary(export_ternary(linear)))


@pytest.mark.parametrize("form", FORMS)
def test_a_full_mix_is_exact(form: Callable):
    linear = BitLinear(384, 96).cuda()
    fully = linear.quantized_weight().detach()
    set_quant_mix(linear, 1.0)
    assert torch.equal(form(BitLinear.quantized_weight)(linear).detach(), fully)


@pytest.mark.parametrize("form", FORMS)
def test_activations_and_rows_are_the_reference_but_for_a_division(form: Callable):
    """A compiled division may miss the last bit, which can turn a code that lies on a border."""
    x_TI = gaussian(256, 640)
    value = form(quantized_activations)(x_TI.cuda()).cpu()
    expected = quantized_activations(x_TI)
    assert ((value - expected).abs() > 1e-6 * expected.abs()).float().mean() < 1e-4
    table = gaussian(512, 384)
    rows = form(quantized_rows)(table.cuda(), bits=8).cpu()
    reference = torch.from_numpy(dequantize_rows(quantize_rows(table.numpy())))
    assert ((rows - reference).abs() > 1e-6 * reference.abs()).float().mean() < 1e-4


def test_a_compiled_layer_learns_as_an_eager_one():
    layer = SwiGLU(384, 1024).cuda()
    x_TD = gaussian(64, 384).cuda()
    gradients: list[list[torch.Tensor]] = []
    for form in (as_is, torch.compile):
        layer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            form(layer)(x_TD).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters()])
    for eager, compiled in zip(*gradients, strict=True):
        assert (eager - compiled).norm() < 0.02 * eager.norm()
