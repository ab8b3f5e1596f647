"""Quantised rows: the definition by hand, lookup, the head's product."""

import numpy as np
import pytest

from configs.errors import UsageError
from quant.activations import dequantize_activations, quantize_activations
from quant.embedding import RowBits, dequantize_rows, lookup_rows, quantize_rows, rows_matmul
from quant.ternary import dequantize_ternary, quantize_ternary

ALL_BITS: list[RowBits] = [8, 4, 2]


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "max_code"), [(8, 127), (4, 7)])
@pytest.mark.parametrize("width", [1, 7, 200])
def test_the_definition_one_operation_at_a_time(bits: RowBits, max_code: int, width: int):
    weight = gaussian(6, width, seed=width)
    rows = quantize_rows(weight, bits=bits)
    for row, codes, scale in zip(weight, rows.codes, rows.scales, strict=True):
        largest = max(*(abs(value) for value in row), np.float32(1e-5))
        inverse = np.float32(max_code) / largest
        assert scale == largest / np.float32(max_code)
        assert codes.tolist() == [int(np.rint(value * inverse)) for value in row]
    assert rows.scales.dtype == np.float32
    assert np.abs(rows.codes).max() == max_code


def test_two_bits_are_a_ternary_group_as_long_as_the_row():
    weight = gaussian(6, 200)
    rows, ternary = quantize_rows(weight, bits=2), quantize_ternary(weight, group_size="row")
    assert (rows.codes == ternary.codes).all()
    assert (dequantize_rows(rows) == dequantize_ternary(ternary)).all()
    assert rows.scales.dtype == np.float32


@pytest.mark.parametrize(("bits", "error"), [(8, 0.007), (4, 0.13), (2, 0.52)])
def test_relative_error_of_gaussian_rows(bits: RowBits, error: float):
    weight = gaussian(500, 384)
    difference = dequantize_rows(quantize_rows(weight, bits=bits)) - weight
    assert np.sqrt((difference**2).sum() / (weight**2).sum()) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_pieces_of_a_table_quantise_as_the_whole(bits: RowBits):
    weight = gaussian(70, 96)
    whole = quantize_rows(weight, bits=bits)
    pieces = [quantize_rows(weight[at : at + 32], bits=bits) for at in range(0, 70, 32)]
    assert (np.concatenate([piece.codes for piece in pieces]) == whole.codes).all()
    assert (np.concatenate([piece.scales for piece in pieces]) == whole.scales).all()


@pytest.mark.parametrize("bits", ALL_BITS)
def test_zeros_stay_zeros(bits: RowBits):
    rows = quantize_rows(np.zeros((2, 5), dtype=np.float32), bits=bits)
    assert not dequantize_rows(rows).any()
    assert (rows.scales > 0).all()


@pytest.mark.parametrize("bits", ALL_BITS)
def test_lookup_is_scale_times_code(bits: RowBits):
    rows = quantize_rows(gaussian(40, 96), bits=bits)
    ids = np.array([3, 39, 3, 0])
    assert (lookup_rows(rows, ids) == dequantize_rows(rows)[ids]).all()
    assert lookup_rows(rows, np.array([], dtype=np.int64)).shape == (0, 96)


@pytest.mark.parametrize("ids", [[40], [-1], [0, 1000]])
def test_ids_outside_of_the_table_are_refused(ids: list[int]):
    with pytest.raises(UsageError, match=r"ids must lie in 0 … 39"):
        lookup_rows(quantize_rows(gaussian(40, 8)), np.array(ids))


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("width", [1, 64, 100, 256])
def test_the_product_bit_for_bit(bits: RowBits, width: int):
    rows = quantize_rows(gaussian(9, width, seed=1), bits=bits)
    acts = quantize_activations(gaussian(3, width, seed=2))
    expected = np.empty((3, 9), dtype=np.float32)
    for token in range(3):
        for row in range(9):
            total = np.float32(0)
            for block in range(-(-width // 64)):
                at = slice(64 * block, min(64 * block + 64, width))
                codes = rows.codes[row, at].astype(int) * acts.codes[token, at].astype(int)
                total = total + acts.scales[token, block] * np.float32(int(codes.sum()))
            expected[token, row] = rows.scales[row] * total
    assert rows_matmul(rows, acts).tobytes() == expected.tobytes()
    values = dequantize_activations(acts) @ dequantize_rows(rows).T
    np.testing.assert_allclose(expected, values, rtol=0, atol=1e-5 * max(1.0, float(np.abs(values).max())))


def test_unknown_bits_and_bad_rows_are_refused():
    with pytest.raises(UsageError, match="3 bits a weight are unknown; allowed are 8, 4 and 2"):
        quantize_rows(gaussian(2, 4), bits=3)
    with pytest.raises(UsageError, match="must be finite, got nan at row 1, column 0"):
        quantize_rows(np.array([[1], [np.nan]], dtype=np.float32))
    with pytest.raises(UsageError, match="take 96 inputs, the activations have 64"):
        rows_matmul(quantize_rows(gaussian(2, 96)), quantize_activations(gaussian(1, 64)))
