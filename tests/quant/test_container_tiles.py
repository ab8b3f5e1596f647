"""The writer takes tiles as well as codes, and holds them to what packing gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UsageError
from quant.container import open_b158
from quant.container_format import TensorSpec
from quant.container_writer import B158Writer, Piece
from quant.embedding import RowWeights
from quant.packing import PackedRows, PackedTernary, pack_rows, pack_ternary
from quant.ternary import TernaryWeights
from tests.quant.b158_files import CONFIG, SPECS, weights_of, write_small

TERNARY = TensorSpec(name="up", kind="ternary", shape=(40, 130))


def in_tiles(piece: Piece) -> Piece:
    if isinstance(piece, TernaryWeights):
        return pack_ternary(piece)
    return pack_rows(piece) if isinstance(piece, RowWeights) else piece


def tiles() -> PackedTernary:
    packed = in_tiles(weights_of(TERNARY))
    assert isinstance(packed, PackedTernary)
    return packed


def test_tiles_give_the_same_file_as_codes(tmp_path: Path):
    write_small(tmp_path / "codes")
    with B158Writer(tmp_path / "tiles", tensors=SPECS, config=CONFIG) as writer:
        for spec in SPECS:
            writer.write(spec.name, in_tiles(weights_of(spec)))
    assert (tmp_path / "tiles").read_bytes() == (tmp_path / "codes").read_bytes()


def test_tiles_may_come_in_pieces(tmp_path: Path):
    whole = weights_of(TERNARY)
    assert isinstance(whole, TernaryWeights)
    with B158Writer(tmp_path / "file", tensors=[TERNARY], config=CONFIG) as writer:
        for rows in (slice(0, 32), slice(32, 40)):
            piece = replace(whole, codes=whole.codes[rows], scales=whole.scales[rows])
            writer.write("up", pack_ternary(piece))
    with open_b158(tmp_path / "file") as file:
        np.testing.assert_array_equal(file.ternary("up").codes, tiles().codes)
        np.testing.assert_array_equal(file.ternary("up").scales, tiles().scales)


def changed(array: np.ndarray, *, at: tuple[int, ...], to: int) -> np.ndarray:
    array = array.copy()
    array[at] = to
    return array


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (replace(tiles(), codes=tiles().codes[:1]), r"contiguous U8 \(2, 12, 2, 64\), got uint8 \(1, 12"),
        (replace(tiles(), codes=tiles().codes.view(np.int8)), "contiguous U8"),
        (replace(tiles(), scales=tiles().scales.astype(np.float32)), "scales of 40 × 130 .* contiguous F16"),
        (replace(tiles(), codes=np.asfortranarray(tiles().codes)), "contiguous"),
        (
            replace(tiles(), codes=changed(tiles().codes, at=(0, 0, 0, 3), to=0xFF)),
            "a code that no weight has",
        ),
        (replace(tiles(), codes=changed(tiles().codes, at=(1, 0, 1, 3), to=0xAA)), "padding is not zero"),
        (replace(tiles(), scales=changed(tiles().scales, at=(0, 0, 0, 0), to=-1)), "below zero"),
        (replace(tiles(), num_rows=41), "41 × 130 does not fit"),
    ],
)
def test_tiles_that_packing_never_gives_are_refused(tmp_path: Path, piece: PackedTernary, words: str):
    with (
        pytest.raises(UsageError, match=words),
        B158Writer(tmp_path / "file", tensors=[TERNARY], config=CONFIG) as writer,
    ):
        writer.write("up", piece)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_other_bits_are_refused(tmp_path: Path):
    rows = in_tiles(weights_of(SPECS[3]))
    assert isinstance(rows, PackedRows)
    spec = replace(SPECS[3], kind="int8")
    with (
        pytest.raises(UsageError, match="declared int8, got rows of 4 bits"),
        B158Writer(tmp_path / "file", tensors=[spec], config=CONFIG) as writer,
    ):
        writer.write(spec.name, rows)
