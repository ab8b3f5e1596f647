"""Codes by rows are the weights of the tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ContainerError
from exports.onnx.codes import row_bytes, table_rows, ternary_rows
from quant.embedding import MAX_CODES, RowBits, RowWeights
from quant.packing import PackedTernary, pack_rows, pack_ternary
from quant.sherry import quantize_sherry
from quant.sherry_packing import pack_sherry
from quant.ternary import TernaryWeights

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 300))


def read_back(raw: np.ndarray, *, bits: int) -> np.ndarray:
    """Weights of bytes, by what `MatMulNBits` says of itself."""
    fields = [(raw >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(fields, axis=-1).reshape(len(raw), -1).astype(np.int64) - 2 ** (bits - 1)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, block=st.sampled_from([64, 128]), seed=st.integers(0, 99))
def test_a_ternary_matrix_of_any_size(size: tuple[int, int], block: int, seed: int):
    codes = np.random.default_rng(seed).integers(-1, 2, size).astype(np.int8)
    scales = np.ones((size[0], -(-size[1] // 128)), dtype=np.float16)
    packed = pack_ternary(TernaryWeights(codes=codes, scales=scales, group_size=128))
    raw = np.concatenate(list(ternary_rows(packed, block=block)))
    assert raw.shape == (size[0], row_bytes(size[1], bits=2, block=block))
    found = read_back(raw, bits=2)
    assert np.array_equal(found[:, : size[1]], codes)
    assert not found[:, size[1] :].any()


@settings(max_examples=40, deadline=None)
@given(size=SIZES, bits=st.sampled_from([8, 4, 2]), seed=st.integers(0, 99))
def test_a_table_of_any_size(size: tuple[int, int], bits: RowBits, seed: int):
    most = MAX_CODES[bits]
    codes = np.random.default_rng(seed).integers(-most, most + 1, size).astype(np.int8)
    packed = pack_rows(RowWeights(codes=codes, scales=np.ones(size[0], dtype=np.float32), bits=bits))
    found = read_back(np.concatenate(list(table_rows(packed, block=128))), bits=bits)
    assert np.array_equal(found[:, : size[1]], codes)
    assert not found[:, size[1] :].any()


def test_large_matrices_come_in_pieces_that_join():
    weights = np.random.default_rng(0).standard_normal((5_000, 1040), dtype=np.float32)
    quantised = quantize_sherry(weights)
    pieces = list(ternary_rows(pack_sherry(quantised), block=128))
    assert len(pieces) > 1
    assert np.array_equal(read_back(np.concatenate(pieces), bits=2)[:, :1040], quantised.codes)


def test_a_code_that_no_weight_has_is_an_error():
    codes = np.zeros((32, 64), dtype=np.int8)
    packed = pack_ternary(TernaryWeights(codes=codes, scales=np.ones((32, 1), np.float16), group_size=128))
    bad = packed.codes.copy()
    bad.reshape(-1)[5] = 0xFF
    damaged = PackedTernary(codes=bad, scales=packed.scales, num_rows=32, num_inputs=64)
    with pytest.raises(ContainerError, match="no weight of 2 bits"):
        list(ternary_rows(damaged, block=64))
