"""`.b158` files: round trip, safetensors' view of them, digests, verification, use after closing."""

import gc
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from configs.errors import ContainerError, UsageError
from quant.container import open_b158
from quant.container_format import KINDS, SINCE, TensorSpec, stored_parts
from quant.container_writer import B158Writer, Piece
from quant.embedding import RowWeights
from quant.packing import PackedRows, PackedTernary, pack_rows, pack_ternary, unpack_rows, unpack_ternary
from quant.ternary import TernaryWeights
from tests.quant.b158_files import CONFIG, SPECS, take_apart, weights_of, write_small

GOLDEN_SHA256 = "7f7b622dad2af4bb3c3d95ba2162e24bc9360149ec3aa83b9b513ab8b49cdc57"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.b158"
    write_small(path, metadata={"model_name": "small"})
    return path


def test_what_was_written_is_read(small: Path):
    assert {spec.kind for spec in SPECS} == set(KINDS) - set(SINCE), "all kinds of the first version"
    with open_b158(small) as file:
        assert file.config == CONFIG
        assert file.metadata == {"model_name": "small"}
        assert tuple(file.tensors.values()) == SPECS
        assert file.verify() == ()
        for spec in SPECS:
            wrote, read = weights_of(spec), file.tensor(spec.name)
            if isinstance(read, PackedTernary):
                back = unpack_ternary(read)
            elif isinstance(read, PackedRows):
                back = unpack_rows(read)
            else:
                assert read.shape == spec.shape
                assert (read == wrote).all()
                continue
            assert isinstance(wrote, TernaryWeights | RowWeights)
            assert back.codes.tobytes() == wrote.codes.tobytes()
            assert back.scales.tobytes() == wrote.scales.tobytes()


def test_the_bytes_of_a_file_never_change(tmp_path: Path):
    """Files that people have must stay readable: a change of these bytes needs a new format version."""
    path = tmp_path / "golden.b158"
    write_small(path, metadata={"model_name": "golden"})
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN_SHA256


def test_the_mapped_bytes_are_the_tiles(small: Path):
    with open_b158(small) as file:
        ternary = weights_of(SPECS[1])
        assert isinstance(ternary, TernaryWeights)
        packed = pack_ternary(ternary)
        assert file.ternary("layers.0.up").codes.tobytes() == packed.codes.tobytes()
        assert file.ternary("layers.0.up").scales.tobytes() == packed.scales.tobytes()
        rows = weights_of(SPECS[0])
        assert isinstance(rows, RowWeights)
        assert file.rows("embedding").codes.tobytes() == pack_rows(rows).codes.tobytes()
        assert file.rows("embedding").codes.dtype == np.int8


@pytest.mark.oracle
def test_safetensors_opens_it(small: Path):
    stored = load_file(small)
    with open_b158(small) as file:
        parts = [part for spec in SPECS for part in stored_parts(spec)]
        assert set(stored) == {part.name for part in parts}
        for spec in SPECS:
            read = file.tensor(spec.name)
            if isinstance(read, np.ndarray):
                assert (stored[f"{spec.name}.values"][: read.size] == read.reshape(-1)).all()
            else:
                assert (stored[f"{spec.name}.codes"] == read.codes).all()
                assert (stored[f"{spec.name}.scales"] == read.scales).all()
    with safe_open(small, framework="numpy") as opened:
        metadata = opened.metadata()
        assert metadata["format"] == "b158"
        assert metadata["config"] == CONFIG
        assert metadata["model_name"] == "small"


def test_everything_is_aligned(small: Path):
    parts = take_apart(small.read_bytes())
    for entry in parts.header.values():
        assert entry["data_offsets"][0] % 64 == entry["data_offsets"][1] % 64 == 0
    assert (len(small.read_bytes()) - len(parts.data)) % 64 == 0
    with open_b158(small) as file:
        for spec in SPECS:
            read = file.tensor(spec.name)
            arrays = [read] if isinstance(read, np.ndarray) else [read.codes, read.scales]
            assert all(array.ctypes.data % 64 == 0 for array in arrays)
            assert not any(array.flags.writeable for array in arrays)


def test_the_stored_bytes_add_up(small: Path):
    with open_b158(small) as file:
        total = sum(file.stored_bytes(spec.name) for spec in SPECS)
    assert total == len(take_apart(small.read_bytes()).data)


def test_the_digest_names_config_and_weights(tmp_path: Path):
    digests = {
        write_small(tmp_path / "a"),
        write_small(tmp_path / "a"),
        write_small(tmp_path / "b", seed=1),
        write_small(tmp_path / "c", metadata={"model_name": "other"}),
    }
    assert len(digests) == 3
    with open_b158(tmp_path / "c") as file:
        assert file.digest in digests


def test_pieces_give_the_same_file_as_the_whole(tmp_path: Path):
    write_small(tmp_path / "whole")
    with B158Writer(tmp_path / "pieces", tensors=SPECS, config=CONFIG) as writer:
        for spec in SPECS:
            whole = weights_of(spec)
            if isinstance(whole, np.ndarray):
                writer.write(spec.name, whole)
                continue
            for at in range(0, spec.shape[0], 32):
                codes, scales = whole.codes[at : at + 32], whole.scales[at : at + 32]
                piece = (
                    TernaryWeights(codes=codes, scales=scales, group_size=128)
                    if isinstance(whole, TernaryWeights)
                    else RowWeights(codes=codes, scales=scales, bits=whole.bits)
                )
                writer.write(spec.name, piece)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


def test_an_array_outlives_its_file(small: Path):
    file = open_b158(small)
    codes = file.ternary("layers.0.up").codes
    before = codes.tobytes()
    file.close()
    del file
    gc.collect()
    small.unlink()
    assert codes.tobytes() == before


def test_use_after_closing_is_an_error(small: Path):
    with open_b158(small) as file:
        pass
    for use in (lambda: file.tensor("embedding"), lambda: file.floats("scalar"), file.verify):
        with pytest.raises(ContainerError, match="is closed"):
            use()
    file.close()


def test_a_wrong_name_or_kind_is_an_error(small: Path):
    with open_b158(small) as file:
        with pytest.raises(ContainerError, match="has no tensor 'head'"):
            file.tensor("head")
        with pytest.raises(ContainerError, match="'embedding' is int8; expected ternary"):
            file.ternary("embedding")
        with pytest.raises(
            ContainerError, match=r"'layers\.0\.up' is ternary; expected int8 or int4 or int2"
        ):
            file.rows("layers.0.up")
        with pytest.raises(ContainerError, match="'half' is int4; expected float32"):
            file.floats("half")


def test_verify_lists_every_damaged_tensor(small: Path):
    parts = take_apart(small.read_bytes())
    whole = bytearray(small.read_bytes())
    data_start = len(whole) - len(parts.data)
    for name in ("layers.0.up.codes", "half.scales", "scalar.values"):
        whole[data_start + parts.header[name]["data_offsets"][0]] ^= 0x10
    small.write_bytes(whole)
    with open_b158(small) as file:
        problems = file.verify()
    found = [(problem.tensor, problem.part) for problem in problems]
    assert found == [("layers.0.up", "codes"), ("half", "scales"), ("scalar", "values")]
    assert all("have the digest" in problem.what for problem in problems)


@pytest.mark.parametrize(
    ("part", "data", "what"),
    [
        ("layers.0.up.codes", b"\x03", "byte 0 holds a code that no ternary weight has"),
        ("half.codes", b"\x80", "byte 0 holds a code that no int4 weight has"),
        ("embedding.codes", b"\x80", "byte 0 holds a code that no int8 weight has"),
        ("quarter.codes", b"\xff", "byte 0 holds a code that no int2 weight has"),
        ("layers.0.up.scales", np.float16(np.nan).tobytes(), "it holds NaN or infinity"),
        ("layers.0.up.scales", np.float16(-1).tobytes(), "it holds a scale below zero, -1.0"),
        ("embedding.scales", np.float32(np.inf).tobytes(), "it holds NaN or infinity"),
        ("layers.0.gain.values", np.float32(np.nan).tobytes(), "it holds NaN or infinity"),
        (
            "scalar.values",
            bytes(8) + b"\x00\x00\x80\x3f",
            "the padding beyond the tensor's shape is not zero",
        ),
        ("quarter.codes", b"\x59", "the padding beyond the tensor's shape is not zero"),
    ],
)
def test_verify_reads_values_that_digests_cannot_judge(small: Path, part: str, data: bytes, what: str):
    """A file made with bad values has right digests."""
    parts = take_apart(small.read_bytes())
    begin, end = parts.header[part]["data_offsets"]
    changed = bytearray(parts.data)
    changed[begin : begin + len(data)] = data
    parts.data = bytes(changed)
    parts.digests[part] = hashlib.sha256(changed[begin:end]).hexdigest()
    small.write_bytes(parts.together())
    with open_b158(small) as file:
        (problem,) = file.verify()
    assert problem.what == what
    assert f"{problem.tensor}.{problem.part}" == part


def test_verify_reports_its_progress(small: Path):
    pieces: list[int] = []
    with open_b158(small) as file:
        file.verify(progress=pieces.append)
    assert sum(pieces) == len(take_apart(small.read_bytes()).data)


def write_pieces(path: Path, specs: Sequence[TensorSpec], *pieces: tuple[str, Piece]) -> None:
    with B158Writer(path, tensors=specs, config="{}") as writer:
        for name, piece in pieces:
            writer.write(name, piece)


class TestWriterRefuses:
    def test_what_is_not_declared(self, tmp_path: Path):
        for tensors, message in [
            ([SPECS[0], SPECS[0]], "names must differ"),
            ([TensorSpec(name="", kind="float32", shape=(1,))], "not be empty"),
            ([TensorSpec(name="a", kind="ternary", shape=(1, 2, 3))], r"ternary cannot have the shape"),
            ([TensorSpec(name="a", kind="float32", shape=(0,))], r"float32 cannot have the shape \(0,\)"),
            ([TensorSpec(name="a", kind="int3", shape=(1, 1))], "int3 cannot have"),
        ]:
            with pytest.raises(UsageError, match=message):
                B158Writer(tmp_path / "a", tensors=tensors, config="{}")
        with pytest.raises(UsageError, match=r"keys \['digests', 'format'\] are the format's own"):
            B158Writer(tmp_path / "a", tensors=[], config="{}", metadata={"format": "x", "digests": "y"})
        with pytest.raises(UsageError, match="holds half a surrogate pair"):
            B158Writer(tmp_path / "a", tensors=[], config="{}", metadata={"model_name": "\ud83d"})
        with pytest.raises(UsageError, match="the config of the file to write:1:1"):
            B158Writer(tmp_path / "a", tensors=[], config="no JSON")

    @pytest.mark.parametrize(
        ("spec", "piece", "message"),
        [
            (SPECS[0], weights_of(SPECS[1]), "is declared int8, got TernaryWeights"),
            (SPECS[1], weights_of(SPECS[0]), "is declared ternary, got RowWeights"),
            (SPECS[1], np.ones((40, 130), dtype=np.float32), "is declared ternary, got float32"),
            (SPECS[0], weights_of(SPECS[3]), "is declared int8, got rows of 4 bits"),
            (SPECS[2], weights_of(SPECS[0]), r"is declared float32 \(3, 7\), got RowWeights"),
            (
                SPECS[2],
                np.ones((7, 3), dtype=np.float32),
                r"is declared float32 \(3, 7\), got float32 \(7, 3\)",
            ),
            (SPECS[2], np.ones((3, 7)), "got float64"),
            (SPECS[2], np.full((3, 7), np.nan, dtype=np.float32), "holds NaN or infinity"),
        ],
    )
    def test_what_is_not_as_declared(self, tmp_path: Path, spec: TensorSpec, piece, message: str):
        with pytest.raises(UsageError, match=message):
            write_pieces(tmp_path / "a", [spec], (spec.name, piece))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("heights", "inputs"), [([31], 100), ([32, 32, 32], 100), ([71], 100), ([70], 99)]
    )
    def test_pieces_that_do_not_fit(self, tmp_path: Path, heights: list[int], inputs: int):
        ones = np.ones((100, inputs), dtype=np.int8), np.ones(100, dtype=np.float32)
        pieces = [RowWeights(codes=ones[0][:height], scales=ones[1][:height], bits=8) for height in heights]
        with pytest.raises(UsageError, match="does not fit"):
            write_pieces(tmp_path / "a", SPECS, *[("embedding", piece) for piece in pieces])

    @pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
    def test_bad_scales(self, tmp_path: Path, scale: float):
        rows = RowWeights(
            codes=np.ones((70, 100), dtype=np.int8), scales=np.full(70, scale, dtype=np.float32), bits=8
        )
        with pytest.raises(UsageError, match="scales that are not finite or below zero"):
            write_pieces(tmp_path / "a", SPECS, ("embedding", rows))

    def test_another_order_and_what_is_missing(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"next is 'embedding', got 'layers\.0\.gain'"):
            write_pieces(tmp_path / "a", SPECS, ("layers.0.gain", weights_of(SPECS[2])))
        with pytest.raises(UsageError, match=r"5 tensors were not written: 'layers\.0\.up'"):
            write_pieces(tmp_path / "a", SPECS, ("embedding", weights_of(SPECS[0])))
        with pytest.raises(UsageError, match="next is none, got 'embedding'"):
            write_pieces(tmp_path / "a", [], ("embedding", weights_of(SPECS[0])))
        assert list(tmp_path.iterdir()) == []

    def test_writing_outside_of_the_block(self, tmp_path: Path):
        writer = B158Writer(tmp_path / "a", tensors=SPECS, config="{}")
        with pytest.raises(UsageError, match="inside the writer's `with` block"):
            writer.write("embedding", weights_of(SPECS[0]))
