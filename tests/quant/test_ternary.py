"""Ternary weights: the measured numbers, the invariants, the product by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from configs.errors import UsageError
from quant.activations import dequantize_activations, quantize_activations
from quant.ternary import (
    GroupSize,
    TernaryWeights,
    dequantize_ternary,
    quantize_ternary,
    regroup,
    ternary_codes,
    ternary_matmul,
    ternary_matvec,
    ternary_scales,
)


def gaussian(*shape: int, seed: int = 0, std: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * std).astype(np.float32)


class TestGaussianWeights:
    """The figures of a Gaussian matrix, which tell a wrong threshold or a wrong scale at once."""

    weight = gaussian(1024, 1024)
    ternary = quantize_ternary(weight)
    value = dequantize_ternary(ternary)

    def test_a_third_is_zero(self):
        zeros = (self.ternary.codes == 0).mean()
        assert zeros == pytest.approx(math.erf(0.2821), abs=0.003)
        assert zeros == pytest.approx(0.310, abs=0.003)

    def test_the_deep_zeros(self):
        spread = np.repeat(self.ternary.scales.astype(np.float32), 128, axis=1)
        assert (np.abs(self.weight / spread) < 0.3).mean() == pytest.approx(0.189, abs=0.002)

    def test_the_relative_error(self):
        error = ((self.value - self.weight) ** 2).sum() / (self.weight**2).sum()
        assert error == pytest.approx(0.263, abs=0.003)

    def test_the_relative_error_with_the_best_scale(self):
        """The mean over the weights that stay, by least squares, errs less; absmean is the contract."""
        groups = self.weight.reshape(1024, 8, 128)
        codes = self.ternary.codes.reshape(1024, 8, 128)
        kept = np.abs(groups * (codes != 0)).sum(axis=2) / (codes != 0).sum(axis=2)
        error = ((kept[:, :, None] * codes - groups) ** 2).sum() / (groups**2).sum()
        # The stated 0.212 is of one scale for all; a group's own least squares fits a little better.
        assert error == pytest.approx(0.212, abs=0.006)

    def test_the_cosine(self):
        dot = float((self.value * self.weight).sum(dtype=np.float64))
        norms = float(np.linalg.norm(self.value)) * float(np.linalg.norm(self.weight))
        assert dot / norms == pytest.approx(0.887, abs=0.003)


def by_hand(weight_OI: np.ndarray, *, size: int) -> tuple[list[list[int]], list[list[np.float16]]]:
    """Codes and scales with exact sums and one scalar operation after the other."""
    codes: list[list[int]] = []
    scales: list[list[np.float16]] = []
    for row in weight_OI:
        row_codes: list[int] = []
        row_scales: list[np.float16] = []
        for start in range(0, len(row), size):
            group = [np.float32(value) for value in row[start : start + size]]
            mean = math.fsum(abs(float(value)) for value in group) / len(group)
            scale = np.float16(np.float32(max(mean, 1e-5)))
            row_scales.append(scale)
            row_codes += [int(min(max(np.rint(value / np.float32(scale)), -1), 1)) for value in group]
        codes.append(row_codes)
        scales.append(row_scales)
    return codes, scales


@pytest.mark.parametrize("size", [1, 7, 32, 64, 128, 500])
@pytest.mark.parametrize("num_inputs", [1, 127, 128, 129, 300])
def test_the_definition_one_operation_at_a_time(size: int, num_inputs: int):
    weight = gaussian(3, num_inputs, seed=num_inputs, std=0.02)
    ternary = quantize_ternary(weight, group_size=size)
    codes, scales = by_hand(weight, size=size)
    assert ternary.codes.tolist() == codes
    assert ternary.scales.tolist() == scales
    assert ternary.codes.dtype == np.int8
    assert ternary.scales.dtype == np.float16


def test_a_scale_per_row_and_per_tensor():
    weight = gaussian(5, 200, seed=3)
    row = quantize_ternary(weight, group_size="row")
    assert (row.scales == quantize_ternary(weight, group_size=200).scales).all()
    tensor = quantize_ternary(weight, group_size="tensor")
    flat = quantize_ternary(weight.reshape(1, -1), group_size="row")
    assert (tensor.scales == flat.scales[0, 0]).all()
    assert (tensor.codes.reshape(-1) == flat.codes[0]).all()


def test_the_mean_of_a_short_group_is_over_its_real_entries():
    weight = np.full((2, 128 + 3), 0.25, dtype=np.float32)
    assert quantize_ternary(weight).scales.tolist() == [[0.25, 0.25]] * 2


def test_rounding_is_half_to_even():
    weight = np.array([[0.5, -0.5, 1.5, -1.5, 2.0, 0.0, 1.0, 1.0]], dtype=np.float32)
    ternary = quantize_ternary(weight)
    assert ternary.scales.tolist() == [[1.0]]
    assert ternary.codes.tolist() == [[0, 0, 1, -1, 1, 0, 1, 1]]


@pytest.mark.parametrize("group_size", [128, "row", "tensor"])
def test_zeros_stay_zeros(group_size: GroupSize):
    ternary = quantize_ternary(np.zeros((2, 130), dtype=np.float32), group_size=group_size)
    assert not ternary.codes.any()
    assert (ternary.scales == np.float16(1e-5)).all()
    assert not dequantize_ternary(ternary).any()


@pytest.mark.parametrize("group_size", [32, 128, "row", "tensor"])
def test_quantising_again_with_the_same_scales_changes_nothing(group_size: GroupSize):
    ternary = quantize_ternary(gaussian(20, 300, seed=4), group_size=group_size)
    again = ternary_codes(dequantize_ternary(ternary), scales=ternary.scales, group_size=ternary.group_size)
    assert (again == ternary.codes).all()


@given(power=st.integers(-6, 9), group_size=st.sampled_from([16, 128, "row", "tensor"]))
def test_a_power_of_two_moves_through_exactly(power: int, group_size: GroupSize):
    """Down to the smallest normal float16 and up to the largest; other factors meet float16's rounding."""
    weight = gaussian(6, 150, seed=5)
    factor = np.float32(2.0**power)
    one, scaled = (quantize_ternary(w, group_size=group_size) for w in (weight, weight * factor))
    assert (one.codes == scaled.codes).all()
    assert (dequantize_ternary(scaled) == dequantize_ternary(one) * factor).all()


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=140),
        elements=st.floats(-60000, 60000, width=32),
    ),
    st.sampled_from([1, 32, 64, 128, "row", "tensor"]),
)
def test_any_weights_give_sound_codes_and_scales(weight: np.ndarray, group_size: GroupSize):
    ternary = quantize_ternary(weight, group_size=group_size)
    assert set(np.unique(ternary.codes)) <= {-1, 0, 1}
    assert np.isfinite(ternary.scales).all()
    assert (ternary.scales > 0).all()
    assert (ternary.codes * np.sign(weight) >= 0).all()


def product_by_hand(weights: TernaryWeights, x_TI: np.ndarray) -> np.ndarray:
    """The product as its definition reads, with integers and scalar float32 operations."""
    acts = quantize_activations(x_TI)
    num_rows, num_inputs = weights.codes.shape
    y_TO = np.empty((len(x_TI), num_rows), dtype=np.float32)
    for token in range(len(x_TI)):
        for row in range(num_rows):
            y = np.float32(0)
            for block in range(-(-num_inputs // 64)):
                at = slice(64 * block, min(64 * block + 64, num_inputs))
                codes = weights.codes[row, at].astype(int)
                total = int((codes * acts.codes[token, at].astype(int)).sum())
                scale = np.float32(weights.scales[row, 64 * block // weights.group_size])
                scale = scale * acts.scales[token, block]
                y = y + scale * np.float32(total)
            y_TO[token, row] = y
    return y_TO


@pytest.mark.parametrize("num_inputs", [1, 64, 100, 128, 192, 300])
@pytest.mark.parametrize("num_tokens", [1, 2, 5])
@pytest.mark.parametrize("group_size", [64, 128, "row", "tensor"])
def test_the_product_bit_for_bit(num_inputs: int, num_tokens: int, group_size: GroupSize):
    weights = quantize_ternary(gaussian(9, num_inputs, seed=6), group_size=group_size)
    x_TI = gaussian(num_tokens, num_inputs, seed=7, std=5)
    y_TO = ternary_matmul(weights, quantize_activations(x_TI))
    assert y_TO.dtype == np.float32
    assert y_TO.tobytes() == product_by_hand(weights, x_TI).tobytes()


@pytest.mark.parametrize("block", [64, "token"])
def test_the_integer_product_equals_the_product_of_dequantised_matrices(block):
    weights = quantize_ternary(gaussian(40, 1728, seed=8))
    acts = quantize_activations(gaussian(3, 1728, seed=9), block=block)
    # Both sides in float64, so that only the algebra is compared and not float32's rounding.
    codes = weights.codes.reshape(40, 27, 64).astype(np.float64)
    scales = weights.scales[:, np.arange(27) // 2].astype(np.float64)
    sums = np.einsum("obi,tbi->tob", codes, acts.codes.reshape(3, 27, 64).astype(np.float64))
    integer = np.einsum("ob,tb,tob->to", scales, acts.scales.astype(np.float64), sums)
    weight_OI = weights.codes * np.repeat(scales, 64, axis=1)
    x_TI = acts.codes * np.repeat(acts.scales.astype(np.float64), 64, axis=1)
    fake = x_TI @ weight_OI.T
    np.testing.assert_allclose(integer, fake, rtol=0, atol=1e-9 * np.abs(fake).max())
    # And the float32 product is that, within its own rounding: 27 sums and as many products.
    bound = 2 * 27 * 2**-24 * np.einsum("ob,tb,tob->to", scales, acts.scales.astype(np.float64), np.abs(sums))
    assert (np.abs(ternary_matmul(weights, acts) - fake) <= bound + 1e-30).all()
    rounded = dequantize_activations(acts) @ dequantize_ternary(weights).T
    np.testing.assert_allclose(ternary_matmul(weights, acts), rounded, rtol=0, atol=1e-4)


def test_a_token_does_not_see_its_neighbours():
    weights = quantize_ternary(gaussian(33, 200, seed=10))
    x_TI = gaussian(6, 200, seed=11)
    together = ternary_matmul(weights, quantize_activations(x_TI))
    for token in range(6):
        alone = ternary_matvec(weights, quantize_activations(x_TI[token : token + 1]))
        assert alone.tobytes() == together[token].tobytes()


@pytest.mark.parametrize("group_size", ["row", "tensor", 256])
def test_scales_written_out_for_smaller_groups_change_no_product(group_size: GroupSize):
    weights = quantize_ternary(gaussian(10, 600, seed=12), group_size=group_size)
    acts = quantize_activations(gaussian(2, 600, seed=13))
    small = regroup(weights)
    assert small.scales.shape == (10, 5)
    assert ternary_matmul(small, acts).tobytes() == ternary_matmul(weights, acts).tobytes()
    assert (dequantize_ternary(small) == dequantize_ternary(weights)).all()


def test_groups_that_cannot_be_written_out_are_refused():
    with pytest.raises(UsageError, match="groups of 64 inputs cannot be written as groups of 128"):
        regroup(quantize_ternary(gaussian(2, 300), group_size=64))


def test_groups_that_cut_a_block_have_no_product():
    weights = quantize_ternary(gaussian(2, 128), group_size=32)
    with pytest.raises(UsageError, match="groups of 32 inputs cut a block of 64"):
        ternary_matmul(weights, quantize_activations(gaussian(1, 128)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 3), dtype=np.float16), "must be float32, got float16"),
        (np.zeros((2, 3, 4), dtype=np.float32), "must be a matrix"),
        (np.zeros((2, 0), dtype=np.float32), "at least one entry"),
        (np.array([[1, 2], [0, np.nan]], dtype=np.float32), "got nan at row 1, column 1"),
        (np.array([[1, np.inf]], dtype=np.float32), "got inf at row 0, column 1"),
        (np.full((1, 4), 7e4, dtype=np.float32), "mean magnitude 70000"),
    ],
)
def test_bad_weights_are_refused(bad: np.ndarray, message: str):
    with pytest.raises(UsageError, match=message):
        quantize_ternary(bad)


@pytest.mark.parametrize("group_size", [0, -128, 1.5, "column", True])
def test_an_unknown_group_size_is_refused(group_size):
    with pytest.raises(UsageError, match=f"group size {group_size!r} is unknown"):
        ternary_scales(gaussian(2, 4), group_size=group_size)


def test_mismatched_operands_are_refused():
    weights = quantize_ternary(gaussian(2, 128))
    with pytest.raises(UsageError, match="take 128 inputs, the activations have 64"):
        ternary_matmul(weights, quantize_activations(gaussian(1, 64)))
    with pytest.raises(UsageError, match="takes one token, got 2"):
        ternary_matvec(weights, quantize_activations(gaussian(2, 128)))
