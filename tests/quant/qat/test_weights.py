"""Ternary weights in torch: the values of the NumPy reference, and the straight-through gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quant.embedding import quantize_rows
from quant.qat.weights import (
    DEEP_ZERO,
    fake_quantize_weight,
    quantized_weight,
    round_to_half,
    soft_clip_,
    ternary_scales,
)
from quant.ternary import GroupSize, dequantize_ternary, quantize_ternary
from quant.ternary import ternary_scales as reference_scales

GROUP_SIZES: list[GroupSize] = [128, 100, 1, "row", "tensor"]


def gaussian(*shape: int, seed: int = 0, std: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def every_half() -> torch.Tensor:
    """All positive finite float16 values, in order."""
    return torch.arange(1, 0x7C00, dtype=torch.int32).to(torch.int16).view(torch.float16)


def test_rounding_to_half_at_every_value_tie_and_neighbour():
    halves = every_half().float()
    ties = (halves[1:] + halves[:-1]) / 2
    below, above = (torch.nextafter(ties, torch.tensor(limit)) for limit in (0.0, 1e9))
    for values in (halves, ties, below, above):
        assert torch.equal(round_to_half(values), values.half().float())


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("shape", [(3, 128), (7, 300), (1, 1), (20, 1728)])
@pytest.mark.parametrize("std", [1.0, 0.02, 1e-5])
def test_the_values_of_the_reference(shape: tuple[int, int], group_size: GroupSize, std: float):
    weight = gaussian(*shape, std=std)
    value = quantized_weight(weight, group_size=group_size).numpy()
    assert np.array_equal(value, dequantize_ternary(quantize_ternary(weight.numpy(), group_size=group_size)))
    scales = ternary_scales(weight, group_size=group_size).numpy()
    expected = reference_scales(weight.numpy(), group_size=group_size).astype(np.float32)
    assert np.array_equal(np.broadcast_to(scales, expected.shape), expected)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=140),
        # The second kind has ratios that lie on the border between two codes.
        elements=st.floats(-60000, 60000, width=32) | st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]),
    ),
    st.sampled_from(GROUP_SIZES),
)
def test_any_weights_have_the_values_of_the_reference(weight: np.ndarray, group_size: GroupSize):
    value = quantized_weight(torch.from_numpy(weight), group_size=group_size).numpy()
    assert np.array_equal(value, dequantize_ternary(quantize_ternary(weight, group_size=group_size)))


@given(st.integers(0x00A8, 0x7BFF), st.integers(-40, 40), st.booleans())
def test_a_comparison_with_half_the_scale_is_rounding_of_the_ratio(
    scale_bits: int, steps: int, negative: bool
):
    """At the border, where it could differ: float32 neighbours of s/2 for any scale that a file can hold."""
    scale = np.uint16(scale_bits).view(np.float16).astype(np.float32)
    border = (np.float32(scale / 2).view(np.int32) + np.int32(steps)).view(np.float32)
    weight = -border if negative else border
    rounded = np.clip(np.rint(weight / scale), -1, 1)
    compared = np.sign(weight) * (np.abs(weight) > scale * np.float32(0.5))
    assert rounded == compared


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_stacked_matrices_quantise_one_by_one(group_size: GroupSize):
    stacked = gaussian(3, 10, 200) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    together = quantized_weight(stacked, group_size=group_size)
    for matrix, value in zip(stacked, together, strict=True):
        assert torch.equal(quantized_weight(matrix, group_size=group_size), value)


def test_zeros_stay_zeros_and_have_a_gradient():
    weight = torch.zeros(2, 130, requires_grad=True)
    value = fake_quantize_weight(weight)
    assert not value.any()
    value.sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 1).all()


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_the_value_is_quantised_and_the_gradient_is_not(group_size: GroupSize):
    weight = gaussian(6, 200).requires_grad_()
    value = fake_quantize_weight(weight, group_size=group_size)
    assert torch.equal(value, quantized_weight(weight, group_size=group_size))
    upstream = gaussian(6, 200, seed=1)
    value.backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_the_gradual_mix(mix: float):
    weight = gaussian(6, 200).requires_grad_()
    value = fake_quantize_weight(weight, mix=torch.tensor(mix))
    quantised = quantized_weight(weight)
    if mix in (0.0, 1.0):
        assert torch.equal(value, quantised if mix else weight)
    torch.testing.assert_close(value, weight + mix * (quantised - weight))
    value.sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 1).all()


def test_masking_stops_the_gradient_of_deep_zeros_alone():
    weight = gaussian(6, 256).requires_grad_()
    upstream = gaussian(6, 256, seed=1)
    masked = fake_quantize_weight(weight, mask_deep_zeros=True)
    assert torch.equal(masked, fake_quantize_weight(weight))
    masked.backward(upstream)
    assert weight.grad is not None
    ratio = weight.detach() / ternary_scales(weight).repeat_interleave(128, dim=1)
    deep = ratio.abs() < DEEP_ZERO
    assert 0.1 < deep.float().mean() < 0.3
    assert not weight.grad[deep].any()
    assert torch.equal(weight.grad[~deep], upstream[~deep])


class TestSoftClip:
    def test_it_is_odd_monotone_bounded_and_flat_at_zero(self):
        line = torch.linspace(-20, 20, 128).reshape(1, 128)
        scale = ternary_scales(line).item()
        clipped = soft_clip_(line.clone())
        torch.testing.assert_close(clipped, -clipped.flip(1))
        assert (clipped.diff() >= 0).all()
        assert clipped.abs().max() <= 3 * scale
        torch.testing.assert_close(clipped, 3 * scale * torch.tanh(line / (3 * scale)))

    def test_its_slope_at_zero_is_one(self):
        weight = gaussian(1, 128)
        weight[0, 0] = 1e-4
        assert soft_clip_(weight)[0, 0].item() == pytest.approx(1e-4, rel=1e-6)

    @pytest.mark.parametrize("group_size", GROUP_SIZES)
    def test_it_works_in_place_for_every_group_size(self, group_size: GroupSize):
        weight = torch.nn.Parameter(gaussian(4, 300))
        before = weight.detach().clone()
        scales = ternary_scales(weight, group_size=group_size)
        assert soft_clip_(weight, group_size=group_size) is weight
        assert not torch.equal(weight, before)
        assert (weight.abs() <= before.abs()).all()
        assert weight.abs().max() <= 3 * scales.max()

    def test_an_outlier_costs_less_in_four_bits(self):
        weight = gaussian(8, 256)
        weight[:, 17] *= 1000
        others = torch.arange(256) != 17

        def error(matrix: torch.Tensor) -> float:
            rows = quantize_rows(matrix.numpy(), bits=4)
            value = torch.from_numpy(rows.codes * rows.scales[:, None])
            return float(((value - matrix)[:, others] ** 2).mean())

        before = error(weight)
        clipped = soft_clip_(weight.clone())
        assert before > 0.99 * float((weight[:, others] ** 2).mean()), "the outlier rounds all others to zero"
        assert error(clipped) < 0.7 * before
        # The outlier stretches its group's own scale too, less and less from step to step.
        assert error(soft_clip_(clipped)) < 0.1 * before
