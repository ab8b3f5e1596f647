"""Activations: the definition by hand, its error, its borders."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from configs.errors import UsageError
from quant.activations import block_sums, dequantize_activations, num_blocks, quantize_activations


def by_hand(x_I: np.ndarray) -> tuple[list[int], list[np.float32]]:
    """Codes and scales of one token, one scalar float32 operation after the other."""
    codes: list[int] = []
    scales: list[np.float32] = []
    for start in range(0, len(x_I), 64):
        block = [np.float32(value) for value in x_I[start : start + 64]]
        largest = max(*(abs(value) for value in block), np.float32(1e-5))
        inverse = np.float32(127) / largest
        scales.append(largest / np.float32(127))
        codes += [int(np.rint(value * inverse)) for value in block]
    return codes, scales


@pytest.mark.parametrize("num_inputs", [1, 2, 63, 64, 65, 128, 130, 1728])
def test_the_definition_one_operation_at_a_time(num_inputs: int):
    x_TI = np.random.default_rng(num_inputs).standard_normal((3, num_inputs)).astype(np.float32) * 3
    acts = quantize_activations(x_TI)
    assert acts.codes.shape == (3, num_blocks(num_inputs) * 64)
    for token in range(3):
        codes, scales = by_hand(x_TI[token])
        assert acts.codes[token, :num_inputs].tolist() == codes
        assert acts.scales[token].tobytes() == np.array(scales, dtype=np.float32).tobytes()
    assert not acts.codes[:, num_inputs:].any()
    sums = acts.codes.reshape(3, -1, 64).astype(np.int64).sum(axis=2)
    assert (acts.neg_sums == -sums).all()
    assert acts.neg_sums.dtype == np.int32


def test_multiplying_by_the_inverse_is_not_dividing_by_the_scale():
    """Why the definition says which: the two differ in some blocks, so a mixture could not be bit-exact."""
    x_TI = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    acts = quantize_activations(x_TI)
    divided = np.float32(1) / acts.scales
    multiplied = np.float32(127) / np.abs(x_TI).max(axis=1, keepdims=True)
    assert 0.1 < (divided != multiplied).mean() < 0.5


def test_relative_error_of_gaussian_activations():
    x_TI = np.random.default_rng(1).standard_normal((400, 640)).astype(np.float32)
    error = dequantize_activations(quantize_activations(x_TI)) - x_TI
    assert np.sqrt((error**2).mean() / (x_TI**2).mean()) == pytest.approx(0.006, abs=0.0005)


def test_a_scale_per_token_is_the_same_scale_in_every_block():
    x_TI = np.random.default_rng(2).standard_normal((5, 200)).astype(np.float32)
    acts = quantize_activations(x_TI, block="token")
    largest = np.abs(x_TI).max(axis=1)
    assert (acts.scales == (largest / np.float32(127))[:, None]).all()
    codes = np.rint(x_TI * (np.float32(127) / largest)[:, None])
    assert (acts.codes[:, :200] == codes).all()


def test_zeros_stay_zeros():
    acts = quantize_activations(np.zeros((2, 70), dtype=np.float32))
    assert not acts.codes.any()
    assert (acts.scales == np.float32(1e-5) / np.float32(127)).all()
    assert not dequantize_activations(acts).any()


FLOATS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=150),
    elements=st.floats(-(2.0**127), 2.0**127, width=32),
)


@given(FLOATS)
def test_codes_keep_to_their_range_and_the_error_to_half_a_step(x_TI: np.ndarray):
    acts = quantize_activations(x_TI)
    assert np.abs(acts.codes.astype(int)).max() <= 127
    assert np.isfinite(acts.scales).all()
    step = np.repeat(acts.scales, 64, axis=1)[:, : x_TI.shape[1]].astype(np.float64)
    error = np.abs(dequantize_activations(acts).astype(np.float64) - x_TI)
    assert (error <= step * (0.5 + 127 * 2**-22)).all()


def test_block_sums_are_exact_at_their_largest():
    x_TI = np.ones((2, 64), dtype=np.float32)
    x_TI[1] = -1
    codes = np.full((3, 64), 127, dtype=np.int8)
    sums = block_sums(codes, quantize_activations(x_TI), block=0)
    assert sums.tolist() == [[64 * 127 * 127] * 3, [-64 * 127 * 127] * 3]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 3), dtype=np.float64), "must be float32, got float64"),
        (np.zeros(3, dtype=np.float32), "must be a matrix"),
        (np.zeros((0, 3), dtype=np.float32), "at least one entry"),
        (np.array([[1, np.nan]], dtype=np.float32), "got nan at row 0, column 1"),
        (np.array([[1, 2], [-np.inf, 0]], dtype=np.float32), "got -inf at row 1, column 0"),
    ],
)
def test_bad_input_is_refused(bad: np.ndarray, message: str):
    with pytest.raises(UsageError, match=message):
        quantize_activations(bad)


def test_an_unknown_block_is_refused():
    with pytest.raises(UsageError, match="block 32 is unknown; allowed are 64 and 'token'"):
        quantize_activations(np.ones((1, 64), dtype=np.float32), block=32)
