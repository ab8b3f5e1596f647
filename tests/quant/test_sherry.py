"""Sherry: the rule of one zero in four, its tiles, and the file that holds them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ContainerError, UsageError
from quant.container import open_b158
from quant.container_format import TensorSpec
from quant.container_writer import B158Writer
from quant.sherry import obeys_three_of_four, quantize_sherry
from quant.sherry_packing import (
    PackedSherry,
    has_dirty_sherry_padding,
    pack_sherry,
    pattern_table,
    unpack_sherry,
)
from quant.ternary import TernaryWeights, dequantize_ternary, quantize_ternary
from tests.quant.b158_files import scrambled

GOLDEN_SHA256 = "645c55dbe6ae60f50c2cf617dc7e4cad635bff6431791aaa3f2dffc2783e2224"
SIZES = {"num_rows": st.integers(1, 70), "num_inputs": st.integers(1, 300), "seed": st.integers(0, 99)}


def drawn(num_rows: int, num_inputs: int, *, seed: int) -> np.ndarray:
    """Weights of which many are equal, or zero."""
    rng = np.random.default_rng(seed)
    return (np.round(rng.standard_normal((num_rows, num_inputs)) * 3) / 4).astype(np.float32)


def test_an_example_by_hand() -> None:
    weights = quantize_sherry(np.array([[0.5, -2, 3, 1]], dtype=np.float32))
    assert weights.scales.tolist() == [[2.0]]
    assert dequantize_ternary(weights).tolist() == [[0, -2, 2, 2]]


def test_of_equal_weights_the_first_becomes_zero_and_zero_is_positive() -> None:
    weights = quantize_sherry(np.array([[2, -1, 1, -1], [0, 0, -0.0, 0]], dtype=np.float32))
    assert weights.codes.tolist() == [[1, 0, 1, -1], [0, 1, 1, 1]]
    assert not dequantize_ternary(weights)[1].any(), "zeros stay zeros: their scale is 0"


@settings(max_examples=40, deadline=None)
@given(**SIZES, group_size=st.sampled_from([128, 64, "row", "tensor"]), power=st.integers(-6, 6))
def test_the_rule(num_rows: int, num_inputs: int, seed: int, group_size, power: int) -> None:
    weight = drawn(num_rows, num_inputs, seed=seed)
    weights = quantize_sherry(weight, group_size=group_size)
    assert obeys_three_of_four(weights.codes)
    scaled = quantize_sherry(weight * np.float32(2.0**power), group_size=group_size)
    assert np.array_equal(dequantize_ternary(scaled), dequantize_ternary(weights) * np.float32(2.0**power))
    if group_size == 128:
        for row, group in np.ndindex(weights.scales.shape):
            inside = slice(group * 128, (group + 1) * 128)
            kept = np.abs(weight[row, inside][weights.codes[row, inside] != 0]).astype(np.float64)
            assert weights.scales[row, group] == np.float16(np.float32(kept.mean() if kept.size else 0))


def test_the_error_on_a_normal_distribution() -> None:
    weight = np.random.default_rng(0).standard_normal((256, 2048), dtype=np.float32)

    def error(weights: TernaryWeights) -> float:
        return float(((dequantize_ternary(weights) - weight) ** 2).mean())

    assert error(quantize_sherry(weight)) == pytest.approx(0.284, abs=0.004)
    assert error(quantize_ternary(weight)) == pytest.approx(0.263, abs=0.004)


def test_groups_that_cut_four_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 4"):
        quantize_sherry(np.ones((1, 12), dtype=np.float32), group_size=6)


def test_all_thirty_two_patterns_are_there() -> None:
    table = pattern_table()
    both = np.concatenate((table, -table))
    assert len(np.unique(both, axis=0)) == 32
    assert ((both == 0).sum(axis=1) == 1).all()
    weights = TernaryWeights(codes=both, scales=np.ones((32, 1), dtype=np.float16), group_size=128)
    assert np.array_equal(unpack_sherry(pack_sherry(weights)).codes, both)


@settings(max_examples=40, deadline=None)
@given(**SIZES, flipped=st.integers(0, 2**32))
def test_tiles_hold_the_weights_and_nothing_else(
    num_rows: int, num_inputs: int, seed: int, flipped: int
) -> None:
    weights = quantize_sherry(drawn(num_rows, num_inputs, seed=seed))
    packed = pack_sherry(weights)
    assert packed.codes.nbytes * 8 == packed.codes.shape[0] * 32 * packed.codes.shape[1] * 64 * 1.25
    again = unpack_sherry(packed)
    assert np.array_equal(again.codes, weights.codes)
    assert np.array_equal(again.scales, weights.scales)
    assert not has_dirty_sherry_padding(packed)
    # One bit changes one weight's four, or padding, which is seen.
    codes = packed.codes.copy()
    codes.reshape(-1)[flipped // 8 % codes.size] ^= 1 << flipped % 8
    other = PackedSherry(codes=codes, scales=packed.scales, num_rows=num_rows, num_inputs=num_inputs)
    found = unpack_sherry(other)
    if has_dirty_sherry_padding(other):
        assert not obeys_three_of_four(found.codes) or not np.array_equal(pack_sherry(found).codes, codes)
    else:
        assert np.array_equal(pack_sherry(found).codes, codes)


def test_other_codes_are_not_packed() -> None:
    with pytest.raises(UsageError, match="exactly one zero in every four"):
        pack_sherry(quantize_ternary(drawn(4, 64, seed=0)))


def written(path: Path, piece: TernaryWeights | PackedSherry, *, kind: str = "sherry") -> Path:
    shape = (piece.num_rows, piece.num_inputs) if isinstance(piece, PackedSherry) else piece.codes.shape
    spec = TensorSpec(name="w", kind=kind, shape=shape)
    with B158Writer(path, tensors=[spec], config="{}") as writer:
        writer.write("w", piece)
    return path


def version_of(path: Path) -> str:
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["format_version"]


def test_a_file_holds_it_and_says_that_older_programs_cannot_read_it(tmp_path: Path) -> None:
    weights = quantize_sherry(drawn(45, 130, seed=1))
    path = written(tmp_path / "s.b158", weights)
    tiles = written(tmp_path / "t.b158", pack_sherry(weights))
    assert path.read_bytes() == tiles.read_bytes()
    assert version_of(path) == "2"
    assert version_of(written(tmp_path / "u.b158", weights, kind="ternary")) == "1"
    with open_b158(path) as file:
        assert file.verify() == ()
        found = file.tensor("w")
        assert isinstance(found, PackedSherry)
        assert np.array_equal(unpack_sherry(found).codes, weights.codes)
        with pytest.raises(ContainerError, match="is sherry; expected ternary"):
            file.ternary("w")


def test_the_bytes_of_a_file_never_change(tmp_path: Path) -> None:
    """Files that people have must stay readable: a change of these bytes needs a new format version."""
    weight = (scrambled((45, 130), seed=3) % 2001 - 1000).astype(np.float32)
    path = written(tmp_path / "golden.b158", quantize_sherry(weight))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN_SHA256


def test_a_file_of_the_first_version_cannot_hold_it(tmp_path: Path) -> None:
    path = written(tmp_path / "s.b158", quantize_sherry(drawn(3, 64, seed=1)))
    path.write_bytes(path.read_bytes().replace(b'"format_version":"2"', b'"format_version":"1"'))
    with pytest.raises(ContainerError, match="version 1 does not have all kinds"):
        open_b158(path)


def test_damage_is_found(tmp_path: Path) -> None:
    weights = quantize_sherry(drawn(5, 70, seed=1))
    packed = pack_sherry(weights)
    dirty = packed.codes.copy()
    dirty[-1, -1, 0, -1] ^= 1  # a padded row
    with pytest.raises(UsageError, match="padding"):
        written(
            tmp_path / "d.b158", PackedSherry(codes=dirty, scales=packed.scales, num_rows=5, num_inputs=70)
        )
    path = written(tmp_path / "s.b158", weights)
    raw = bytearray(path.read_bytes())
    raw[-packed.scales.nbytes - 1] ^= 1
    path.write_bytes(raw)
    with open_b158(path) as file:
        assert [(problem.tensor, problem.part) for problem in file.verify()] == [("w", "codes")]
