"""Activations in torch: the values of the NumPy reference, the norm, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quant.activations import ActBlock, dequantize_activations, quantize_activations
from quant.qat.activations import RMSNorm, fake_quantize_activations, norm_quant, quantized_activations

BLOCKS: list[ActBlock] = [64, "token"]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("num_inputs", [1, 64, 100, 640])
def test_the_values_of_the_reference(block: ActBlock, num_inputs: int):
    x_TI = gaussian(9, num_inputs) * 5
    x_TI[3] = 0
    value = quantized_activations(x_TI, block=block).numpy()
    assert np.array_equal(value, dequantize_activations(quantize_activations(x_TI.numpy(), block=block)))


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=140),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    ),
    st.sampled_from(BLOCKS),
)
def test_any_activations_have_the_values_of_the_reference(x_TI: np.ndarray, block: ActBlock):
    value = quantized_activations(torch.from_numpy(x_TI), block=block).numpy()
    assert np.array_equal(value, dequantize_activations(quantize_activations(x_TI, block=block)))


def test_leading_axes_are_free():
    x_BTI = gaussian(2, 3, 100)
    together = quantized_activations(x_BTI)
    assert torch.equal(together.reshape(6, 100), quantized_activations(x_BTI.reshape(6, 100)))


@pytest.mark.parametrize("mix", [None, 0.0, 0.5, 1.0])
def test_the_gradient_goes_straight_through(mix: float | None):
    x_TI = gaussian(4, 100).requires_grad_()
    value = fake_quantize_activations(x_TI, mix=None if mix is None else torch.tensor(mix))
    share = 1.0 if mix is None else mix
    torch.testing.assert_close(value, x_TI + share * (quantized_activations(x_TI) - x_TI))
    if share == 1:
        assert torch.equal(value, quantized_activations(x_TI))
    upstream = gaussian(4, 100, seed=1)
    value.backward(upstream)
    assert x_TI.grad is not None
    assert torch.equal(x_TI.grad, upstream)


def test_the_norm_and_its_gradients_are_the_formula():
    norm = RMSNorm(96, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(gaussian(96, seed=1))
    x_TI = gaussian(5, 96).requires_grad_()
    upstream = gaussian(5, 96, seed=2)
    y_TI = norm(x_TI)
    y_TI.backward(upstream)
    x, gain, dy = x_TI.detach().double(), norm.weight.detach().double(), upstream.double()
    inverse = (x.square().mean(-1, keepdim=True) + 1e-6) ** -0.5
    torch.testing.assert_close(y_TI.detach().double(), x * inverse * gain, rtol=1e-5, atol=1e-6)
    dx = inverse * (gain * dy - x * inverse**2 * (gain * dy * x).mean(-1, keepdim=True))
    assert x_TI.grad is not None
    assert norm.weight.grad is not None
    torch.testing.assert_close(x_TI.grad.double(), dx, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.weight.grad.double(), (dy * x * inverse).sum(0), rtol=1e-5, atol=1e-6)


def test_the_norm_computes_in_float32():
    norm = RMSNorm(64).to(torch.bfloat16)
    half = gaussian(3, 64).bfloat16()
    assert norm(half).dtype == torch.float32
    torch.testing.assert_close(norm(half), RMSNorm(64)(half.float()))


def test_norm_then_quantise():
    norm = RMSNorm(100)
    x_TI = gaussian(4, 100)
    assert torch.equal(norm_quant(x_TI, norm), quantized_activations(norm(x_TI)))
    assert torch.equal(
        norm_quant(x_TI, norm, block="token"), quantized_activations(norm(x_TI), block="token")
    )
    assert torch.equal(norm_quant(x_TI, norm, mix=torch.tensor(0.0)), norm(x_TI))
