"""Files that must be refused, each with the error that it must give; and files damaged at random."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import ContainerError
from quant.container import B158File, open_b158
from tests.quant.b158_files import SPECS, TakenApart, take_apart, with_header, write_small


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "small.b158"
    write_small(path)
    return path.read_bytes()


def refused(path: Path, whole: bytes) -> str:
    """The message with which a file of these bytes is refused."""
    path.write_bytes(whole)
    with pytest.raises(ContainerError) as caught:
        open_b158(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.hint or ":1:" in str(caught.value)
    return str(caught.value)


def set_path(*keys: str, to: object) -> Callable[[TakenApart], None]:
    """A change: `part.key.key = to`."""

    def change(parts: TakenApart) -> None:
        target = getattr(parts, keys[0])
        for key in keys[1:-1]:
            target = target[key]
        target[keys[-1]] = to

    return change


def drop_path(*keys: str) -> Callable[[TakenApart], None]:
    def change(parts: TakenApart) -> None:
        target = getattr(parts, keys[0])
        for key in keys[1:-1]:
            target = target[key]
        del target[keys[-1]]

    return change


def swap_rows_and_cols(parts: TakenApart) -> None:
    entry = parts.tensors["layers.0.up"]
    entry["rows"], entry["cols"] = entry["cols"], entry["rows"]


def shift_last(parts: TakenApart) -> None:
    entry = parts.header["scalar.values"]
    entry["data_offsets"] = [offset + 64 for offset in entry["data_offsets"]]


def extra_stored(parts: TakenApart) -> None:
    size = len(parts.data)
    parts.header["extra"] = {"dtype": "U8", "shape": [64], "data_offsets": [size, size + 64]}
    parts.digests["extra"] = "0" * 64
    parts.data += bytes(64)


def entry_without_stored(parts: TakenApart) -> None:
    parts.tensors["more"] = {"kind": "float32", "shape": [1], "parts": {"values": "more.values"}}


def same_size_other_dtype(parts: TakenApart) -> None:
    entry = parts.header["layers.0.up.scales"]
    entry["dtype"] = "F32"
    entry["shape"][-1] //= 2


UP = ("header", "layers.0.up.codes")
HOSTILE: dict[str, tuple[Callable[[TakenApart], None], str]] = {
    # Another program's file, or another version's.
    "no format": (drop_path("metadata", "format"), "names the format None, expected 'b158'"),
    "other format": (set_path("metadata", "format", to="pt"), "names the format 'pt'"),
    "newer version": (set_path("metadata", "format_version", to="3"), "version 3; this program reads up to"),
    "version 0": (set_path("metadata", "format_version", to="0"), "format version is '0'"),
    "no number": (set_path("metadata", "format_version", to="one"), "format version is 'one'"),
    "signed": (set_path("metadata", "format_version", to="+1"), r"format version is '\+1'"),
    "other digits": (set_path("metadata", "format_version", to="²"), "format version is"),
    "huge version": (set_path("metadata", "format_version", to="9" * 5000), "format version is '9999"),
    "no version": (drop_path("metadata", "format_version"), "format version is None"),
    "no config": (drop_path("metadata", "config"), "the metadata has no 'config'"),
    "config no string": (set_path("metadata", "config", to={"a": 1}), "'config' is {'a': 1}; only strings"),
    "tensors no JSON": (set_path("metadata", "tensors", to="{"), r"'tensors'\):1:2: expected a key"),
    "tensors a list": (set_path("metadata", "tensors", to="[]"), "expected a JSON object"),
    "digests NaN": (set_path("metadata", "digests", to='{"a": NaN}'), "JSON has no NaN"),
    "deep": (set_path("metadata", "tensors", to='{"a":' * 5000), "nested more than 100 levels"),
    # The stored tensors.
    "entry no object": (set_path(*UP, to=[1]), r"is described by \[1\]; expected the keys dtype, shape"),
    "entry with more": (set_path(*UP, "more", to=1), "is described by"),
    "entry with less": (drop_path(*UP, "shape"), "is described by"),
    "unknown dtype": (set_path(*UP, "dtype", to="F64"), "has the dtype 'F64'; allowed are U8, I8, F16, F32"),
    "dtype no string": (set_path(*UP, "dtype", to=["U8"]), r"has the dtype \['U8'\]"),
    "shape no list": (set_path(*UP, "shape", to=64), "shape is 64; expected at most 8 whole numbers"),
    "shape with a bool": (set_path(*UP, "shape", to=[True]), r"shape is \[True\]"),
    "shape with a float": (set_path(*UP, "shape", to=[1.0]), r"shape is \[1.0\]"),
    "shape with 0": (set_path(*UP, "shape", to=[0, 64]), r"shape is \[0, 64\]"),
    "negative shape": (set_path(*UP, "shape", to=[-1, -64]), r"shape is \[-1, -64\]"),
    "shape of 2**63": (set_path(*UP, "shape", to=[2**63]), "whole numbers from 1 to 2..63 - 1"),
    "shape that wraps to 0": (set_path(*UP, "shape", to=[2**32, 2**32, 2, 64]), "needs U8"),
    "many dimensions": (set_path(*UP, "shape", to=[1] * 9), "expected at most 8"),
    "offsets no list": (set_path(*UP, "data_offsets", to=5), "has the offsets 5"),
    "three offsets": (set_path(*UP, "data_offsets", to=[0, 64, 128]), "has the offsets"),
    "negative offset": (set_path(*UP, "data_offsets", to=[-64, 64]), r"has the offsets \[-64, 64\]"),
    "empty extent": (set_path(*UP, "data_offsets", to=[64, 64]), r"0 ≤ begin < end"),
    "offsets backwards": (set_path(*UP, "data_offsets", to=[128, 64]), r"0 ≤ begin < end"),
    "offset a float": (set_path(*UP, "data_offsets", to=[0.0, 64.0]), "has the offsets"),
    "misaligned": (set_path(*UP, "data_offsets", to=[32, 96]), "must be multiples of 64"),
    "out of range": (set_path(*UP, "data_offsets", to=[2**60, 2**60 + 64]), "leave a hole"),
    "overflowing end": (set_path(*UP, "data_offsets", to=[0, 2**64]), "overlap"),
    "overlap": (set_path("header", "half.codes", "data_offsets", to=[0, 2048]), "overlap"),
    "hole": (shift_last, "leave a hole: 'scalar.values' begins"),
    "stored but unknown": (extra_stored, "'extra' belongs to no tensor of the model"),
    "stored without entry": (drop_path("tensors", "half"), "'half.codes' belongs to no tensor"),
    "entry without stored": (entry_without_stored, "the values of the tensor 'more' are not in the file"),
    # The model's tensors.
    "unknown kind": (set_path("tensors", "half", "kind", to="int3"), "kind 'int3'; this version knows"),
    "kind no string": (set_path("tensors", "half", "kind", to=["int4"]), r"has the kind \['int4'\]"),
    "no kind": (drop_path("tensors", "half", "kind"), "has the kind None"),
    "other kind": (set_path("tensors", "half", "kind", to="int2"), "int2 of shape"),
    "no rows": (drop_path("tensors", "half", "rows"), "expected the keys kind, rows, cols, parts"),
    "fewer rows": (set_path("tensors", "half", "rows", to=32), "the codes of the tensor 'half' are U8"),
    "more cols": (set_path("tensors", "half", "cols", to=65), "the codes of the tensor 'half' are U8"),
    "rows of 2**63": (set_path("tensors", "half", "rows", to=2**63), "rows, cols is"),
    "rows of 2**62": (set_path("tensors", "half", "rows", to=2**62), "needs U8"),
    "rows a string": (set_path("tensors", "half", "rows", to="33"), "rows, cols is"),
    "rows and cols swapped": (swap_rows_and_cols, "the codes of the tensor 'layers.0.up' are U8"),
    "float shape": (set_path("tensors", "layers.0.gain", "shape", to=[33]), "needs F32"),
    "other group": (set_path("tensors", "layers.0.up", "group", to=64), "has groups of 64; only 128"),
    "no group": (drop_path("tensors", "layers.0.up", "group"), "expected the keys kind, rows, cols, group"),
    "group of floats": (set_path("tensors", "half", "group", to=128), "is described by"),
    "foreign part": (set_path("tensors", "half", "parts", "codes", to="embedding.codes"), "has the parts"),
    "dtype of another part": (same_size_other_dtype, "'layers.0.up' are F32"),
    # The digests.
    "no digest": (drop_path("digests", "half.codes"), "stored tensor but no digest for 'half.codes'"),
    "digest of nothing": (set_path("digests", "x", to="0" * 64), "digest but no stored tensor for 'x'"),
    "short digest": (set_path("digests", "half.codes", to="0" * 63), "expected 64 hexadecimal digits"),
    "capital digest": (set_path("digests", "half.codes", to="A" * 64), "expected 64 hexadecimal digits"),
    "digest no string": (set_path("digests", "half.codes", to=7), "is 7; expected 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path: Path, valid: bytes, case: str):
    change, message = HOSTILE[case]
    parts = take_apart(valid)
    assert parts.together() != b""
    change(parts)
    path = tmp_path / "hostile.b158"
    path.write_bytes(parts.together())
    with pytest.raises(ContainerError, match=message):
        open_b158(path)


def test_what_is_put_together_unchanged_is_accepted(tmp_path: Path, valid: bytes):
    """Otherwise the table above could be refused for another reason than it says."""
    path = tmp_path / "same.b158"
    path.write_bytes(take_apart(valid).together())
    with open_b158(path) as file:
        assert tuple(file.tensors.values()) == SPECS
        assert file.verify() == ()


def test_an_update_is_advised_for_a_newer_version(tmp_path: Path, valid: bytes):
    parts = take_apart(valid)
    parts.metadata["format_version"] = "7"
    parts.metadata["tensors"] = "something else by then"
    assert "Update: pip install --upgrade chimera-edge" in refused(tmp_path / "a", parts.together())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "the header is not a JSON object"),
        (b'\xef\xbb\xbf{"a":1}', "the header is not a JSON object"),
        (b' {"a":1}', "the header is not a JSON object"),
        (b"{}", "no __metadata__; this may be a safetensors file of another program"),
        (b'{"__metadata__": []}', "no __metadata__"),
        (b'{"a": 1', "expected ',' or '}'"),
        (b'{"a": 1} x', "text after the end of the object"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b'{"a": NaN}', "JSON has no NaN"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a":' * 200, "nested more than 100 levels deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 characters"),
    ],
)
def test_a_header_that_is_not_json_is_refused(tmp_path: Path, text: bytes, message: str):
    assert message in refused(tmp_path / "a", with_header(text, b""))


def test_a_tensor_named_twice_is_refused(tmp_path: Path, valid: bytes):
    length = int.from_bytes(valid[:8], "little")
    text = valid[8 : 8 + length].rstrip()
    entry = json.dumps(take_apart(valid).header["half.codes"]).encode()
    text = text[:-1] + b',"half.codes":' + entry + b"}"
    assert "duplicate key 'half.codes'" in refused(tmp_path / "a", with_header(text, valid[8 + length :]))


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0, "the header's length is 0 bytes"),
        (1, "the header's length is 1 bytes"),
        (2**63, "the header's length is 9223372036854775808 bytes"),
        (2**64 - 1, "the header's length is 18446744073709551615 bytes"),
        (100_000_001, "the header's length is 100000001 bytes"),
    ],
)
def test_an_impossible_length_is_refused(tmp_path: Path, valid: bytes, length: int, message: str):
    assert message in refused(tmp_path / "a", length.to_bytes(8, "little") + valid[8:])


def test_data_that_is_not_aligned_is_refused(tmp_path: Path, valid: bytes):
    length = int.from_bytes(valid[:8], "little")
    longer = (length + 1).to_bytes(8, "little") + valid[8 : 8 + length] + b" " + valid[8 + length :]
    assert "not aligned to 64 bytes" in refused(tmp_path / "a", longer)


def test_a_file_cut_at_any_border_is_refused(tmp_path: Path, valid: bytes):
    parts = take_apart(valid)
    data_start = len(valid) - len(parts.data)
    borders = {0, 1, 7, 8, 9, data_start - 1, data_start, len(valid) - 1}
    for entry in parts.header.values():
        borders |= {data_start + offset for offset in entry["data_offsets"]}
    borders.remove(len(valid))
    for border in sorted(borders):
        message = refused(tmp_path / "a", valid[:border])
        assert (
            "truncated" in message
            if border >= data_start
            else "the header's length" in message or (f"the file has {border} bytes" in message)
        )


def test_a_file_with_more_at_its_end_is_refused(tmp_path: Path, valid: bytes):
    for more in (1, 64, 4096):
        assert "the file is too long" in refused(tmp_path / "a", valid + bytes(more))


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(ContainerError, match="there is no file"):
        open_b158(tmp_path / "missing")
    with pytest.raises(ContainerError, match="is not a file"):
        open_b158(tmp_path)
    with pytest.raises(ContainerError, match="is not a file"):
        open_b158("/dev/zero")
    with pytest.raises(ContainerError, match="cannot open"):
        open_b158(tmp_path / ("long" * 100))


def read_everything(file: B158File, *, within: tuple[int, int]) -> None:
    """Read every array of a file, and check that each lies in the map."""
    for name in file.tensors:
        read = file.tensor(name)
        for array in [read] if isinstance(read, np.ndarray) else [read.codes, read.scales]:
            low, high = np.lib.array_utils.byte_bounds(array)
            assert within[0] <= low < high <= within[1]
            array.copy()


def opens_safely(path: Path, whole: bytes) -> None:
    """Either a ContainerError, or a file whose reads stay inside and whose verification ends."""
    path.write_bytes(whole)
    try:
        file = open_b158(path)
    except ContainerError:
        return
    with file:
        mapped = np.frombuffer(file._mapped, dtype=np.uint8)
        read_everything(file, within=np.lib.array_utils.byte_bounds(mapped))
        file.verify()


FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_survived(tmp_path: Path, valid: bytes, flips: list[tuple[float, int]]):
    whole = bytearray(valid)
    header_end = len(valid) - len(take_apart(valid).data)
    for place, change in flips:
        # Half of the flips go to the header, where they do most.
        at = int(place * 2 * header_end) if place < 0.5 else int(place * len(valid))
        whole[at] ^= change
    opens_safely(tmp_path / "a", bytes(whole))


@FUZZ
@given(st.integers(0), st.integers(0), st.binary(max_size=80))
def test_cut_and_filled_files_are_survived(
    tmp_path: Path, valid: bytes, begin: int, end: int, filling: bytes
):
    begin, end = sorted((begin % len(valid), end % len(valid)))
    opens_safely(tmp_path / "a", valid[:begin] + filling + valid[end:])


@FUZZ
@given(st.data())
def test_changed_numbers_are_survived(tmp_path: Path, valid: bytes, data: st.DataObject):
    """Headers that are still JSON, with a value replaced: these reach deeper than flipped bytes."""
    parts = take_apart(valid)
    values = st.one_of(
        st.integers(-(2**65), 2**65),
        st.sampled_from([0, 1, 63, 64, 128, 2**31, 2**32, 2**63 - 1, 2**63, 2**64]),
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
        st.lists(st.integers(0, 2**64), max_size=4),
    )
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from([parts.header, parts.tensors, parts.digests, parts.metadata]))
        while True:
            keys = list(range(len(target))) if isinstance(target, list) else sorted(target)
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(target[key], dict | list) and data.draw(st.booleans()):
                target = target[key]
                continue
            target[key] = data.draw(values)
            break
    opens_safely(tmp_path / "a", parts.together())
