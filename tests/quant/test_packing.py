"""Tiles: every byte where the format says, every residue there and back, every invalid code refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ContainerError, UsageError
from quant.embedding import MAX_CODES, RowBits, RowWeights, lookup_rows
from quant.packing import (
    PackedRows,
    PackedTernary,
    first_invalid_code,
    has_dirty_padding,
    pack_rows,
    pack_ternary,
    unpack_row,
    unpack_rows,
    unpack_ternary,
)
from quant.ternary import TernaryWeights, quantize_ternary

ALL_BITS: list[RowBits] = [8, 4, 2]


def random_ternary(num_rows: int, num_inputs: int, *, seed: int = 0) -> TernaryWeights:
    rng = np.random.default_rng(seed)
    return TernaryWeights(
        codes=rng.integers(-1, 2, (num_rows, num_inputs), dtype=np.int8),
        scales=rng.random((num_rows, -(-num_inputs // 128))).astype(np.float16),
        group_size=128,
    )


def random_rows(num_rows: int, num_inputs: int, *, bits: RowBits, seed: int = 0) -> RowWeights:
    rng = np.random.default_rng(seed)
    limit = MAX_CODES[bits]
    return RowWeights(
        codes=rng.integers(-limit, limit + 1, (num_rows, num_inputs), dtype=np.int8),
        scales=rng.random(num_rows).astype(np.float32),
        bits=bits,
    )


def field(codes: np.ndarray, *, row: int, column: int, bits: RowBits) -> int:
    """The stored code of a weight, found by the rule that the format's page gives, in whole numbers."""
    pair, half, in_block = row // 32, row % 32 // 16, row % 16
    per_tile = 32 // bits
    tile, in_tile = divmod(column, per_tile)
    byte = int(codes.view(np.uint8)[pair, tile, half, in_block * 4 + in_tile % 4])
    return byte >> in_tile // 4 * bits & (1 << bits) - 1


@pytest.mark.parametrize("bits", ALL_BITS)
def test_every_weight_lies_where_the_format_says(bits: RowBits):
    num_rows, num_inputs = 43, 90
    if bits == 2:
        weights = random_ternary(num_rows, num_inputs)
        matrix, codes = weights.codes, pack_ternary(weights).codes
        assert codes.tobytes() == pack_rows(random_from(matrix)).codes.tobytes()
    else:
        rows = random_rows(num_rows, num_inputs, bits=bits)
        matrix, codes = rows.codes, pack_rows(rows).codes
    assert codes.shape == (2, 128 * bits // 32, 2, 64)
    assert codes.dtype == (np.int8 if bits == 8 else np.uint8)
    zero = {8: 0, 4: 8, 2: 1}[bits]
    for row in range(64):
        for column in range(128):
            inside = row < num_rows and column < num_inputs
            weight = int(matrix[row, column]) if inside else 0
            assert field(codes, row=row, column=column, bits=bits) == (weight + zero) % 2**bits


def random_from(codes: np.ndarray) -> RowWeights:
    return RowWeights(codes=codes, scales=np.ones(len(codes), dtype=np.float32), bits=2)


def test_every_scale_lies_where_the_format_says():
    weights = random_ternary(43, 300)
    scales = pack_ternary(weights).scales
    assert scales.shape == (2, 3, 2, 16)
    assert scales.dtype == np.float16
    for row in range(64):
        for group in range(3):
            expected = weights.scales[row, group] if row < 43 else 0
            assert scales[row // 32, group, row % 32 // 16, row % 16] == expected
    rows = random_rows(43, 8, bits=8)
    packed = pack_rows(rows)
    assert packed.scales.shape == (2, 2, 16)
    assert (packed.scales.reshape(-1)[:43] == rows.scales).all()
    assert not packed.scales.reshape(-1)[43:].any()


@pytest.mark.parametrize("num_rows", range(1, 66))
def test_ternary_there_and_back_at_every_residue_of_rows(num_rows: int):
    check_ternary(random_ternary(num_rows, 70, seed=num_rows))


@pytest.mark.parametrize("num_inputs", [*range(1, 131), 191, 192, 193, 255, 256, 257, 383, 1728])
def test_ternary_there_and_back_at_every_residue_of_inputs(num_inputs: int):
    check_ternary(random_ternary(3, num_inputs, seed=num_inputs))


def check_ternary(weights: TernaryWeights) -> None:
    packed = pack_ternary(weights)
    back = unpack_ternary(packed)
    assert back.codes.tobytes() == weights.codes.tobytes()
    assert back.scales.tobytes() == weights.scales.tobytes()
    assert back.codes.shape == weights.codes.shape
    assert not has_dirty_padding(packed)
    assert packed.codes.flags.c_contiguous
    assert packed.scales.flags.c_contiguous
    assert packed.codes.nbytes % 64 == packed.scales.nbytes % 64 == 0


@given(
    bits=st.sampled_from(ALL_BITS),
    num_rows=st.integers(1, 70),
    num_inputs=st.integers(1, 200),
    seed=st.integers(0),
)
def test_rows_there_and_back(bits: RowBits, num_rows: int, num_inputs: int, seed: int):
    rows = random_rows(num_rows, num_inputs, bits=bits, seed=seed)
    packed = pack_rows(rows)
    back = unpack_rows(packed)
    assert back.codes.tobytes() == rows.codes.tobytes()
    assert back.scales.tobytes() == rows.scales.tobytes()
    assert back.bits == bits
    assert not has_dirty_padding(packed)
    row = seed % num_rows
    assert unpack_row(packed, row=row).tobytes() == lookup_rows(rows, np.array([row]))[0].tobytes()


@given(seed=st.integers(0), num_rows=st.integers(33, 200), num_inputs=st.integers(1, 150))
def test_tiles_of_pieces_join_end_to_end(seed: int, num_rows: int, num_inputs: int):
    weights = random_ternary(num_rows, num_inputs, seed=seed)
    whole = pack_ternary(weights)
    pieces = [
        pack_ternary(
            TernaryWeights(
                codes=weights.codes[at : at + 64], scales=weights.scales[at : at + 64], group_size=128
            )
        )
        for at in range(0, num_rows, 64)
    ]
    assert np.concatenate([piece.codes for piece in pieces]).tobytes() == whole.codes.tobytes()
    assert np.concatenate([piece.scales for piece in pieces]).tobytes() == whole.scales.tobytes()


def test_larger_groups_are_written_out():
    weights = quantize_ternary(
        np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32), group_size="row"
    )
    back = unpack_ternary(pack_ternary(weights))
    assert back.group_size == 128
    assert (back.scales == weights.scales).all()


def invalid_bytes(bits: RowBits) -> list[int]:
    """All bytes that hold a code outside of the weights' range."""
    fields = range(0, 8, bits)
    bad = {8: 0x80, 4: 0, 2: 3}[bits]
    return [byte for byte in range(256) if any(byte >> shift & (1 << bits) - 1 == bad for shift in fields)]


@pytest.mark.parametrize("bits", ALL_BITS)
def test_all_bytes_are_told_valid_from_invalid(bits: RowBits):
    codes = np.arange(256, dtype=np.uint8)
    bad = [byte for byte in range(256) if first_invalid_code(codes[byte : byte + 1], bits=bits)]
    assert bad == invalid_bytes(bits)
    assert first_invalid_code(codes, bits=bits) == (bad[0],)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_an_invalid_code_is_refused_wherever_it_stands(bits: RowBits):
    packed = pack_rows(random_rows(40, 100, bits=bits))
    for at in [(0, 0, 0, 0), (1, 0, 1, 63), (1, packed.codes.shape[1] - 1, 1, 63)]:
        codes = packed.codes.copy()
        codes.view(np.uint8)[at] = invalid_bytes(bits)[0]
        damaged = PackedRows(codes=codes, scales=packed.scales, num_rows=40, num_inputs=100, bits=bits)
        assert first_invalid_code(codes, bits=bits) == at
        with pytest.raises(ContainerError, match=f"no weight of {bits} bits has such a code"):
            unpack_rows(damaged)


@pytest.mark.parametrize("shape", [(33, 64), (1, 65), (20, 100)])
def test_weights_in_the_padding_are_seen(shape: tuple[int, int]):
    num_rows, num_inputs = shape
    packed = pack_ternary(random_ternary(num_rows, num_inputs))
    for row, column in [(-(-num_rows // 32) * 32 - 1, 0), (0, -(-num_inputs // 64) * 64 - 1)]:
        if row < num_rows and column < num_inputs:
            continue
        codes = packed.codes.copy()
        in_tile = column % 16
        byte = (row // 32, column // 16, row % 32 // 16, row % 16 * 4 + in_tile % 4)
        codes[byte] += 1 << 2 * (in_tile // 4)
        dirty = PackedTernary(codes=codes, scales=packed.scales, num_rows=num_rows, num_inputs=num_inputs)
        assert has_dirty_padding(dirty)
    scales = packed.scales.copy()
    scales[-1, 0, 1, 15] = 1
    dirty = PackedTernary(codes=packed.codes, scales=scales, num_rows=num_rows, num_inputs=num_inputs)
    assert has_dirty_padding(dirty)


def test_codes_that_do_not_fit_are_refused():
    ones = np.ones(1, dtype=np.float32)
    for bits, code in [(8, -128), (4, 8), (4, -8), (2, 2), (2, -2)]:
        codes = np.array([[code]], dtype=np.int8)
        with pytest.raises(UsageError, match=f"codes of {bits} bits must be int8 from"):
            pack_rows(RowWeights(codes=codes, scales=ones, bits=bits))
    with pytest.raises(UsageError, match="got int16"):
        pack_rows(RowWeights(codes=np.zeros((1, 4), dtype=np.int16), scales=ones, bits=8))


def test_tiles_of_another_shape_are_refused():
    packed = pack_ternary(random_ternary(40, 100))
    wrong = PackedTernary(codes=packed.codes, scales=packed.scales, num_rows=40, num_inputs=200)
    with pytest.raises(ContainerError, match=r"tiles of a 40 × 200 matrix of 2 bits must have the shape"):
        unpack_ternary(wrong)


def test_a_row_outside_of_the_table_is_refused():
    packed = pack_rows(random_rows(40, 100, bits=4))
    for row in (-1, 40):
        with pytest.raises(UsageError, match=r"rows 0 … 39"):
            unpack_row(packed, row=row)
