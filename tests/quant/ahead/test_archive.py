"""Archives of machine code: whole or refused."""

import hashlib
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant import cache
from quant.ahead.archive import Archive, ArchiveError, Made, path_of, read_archive, to_bytes
from quant.ahead.levels import LEVELS
from quant.ahead.loader import open_objects

ARCHIVE = Archive(
    level="x86-64",
    versions={"numba": "0"},
    sources=(("quant/one.py", "a" * 64), ("quant/other.py", "b" * 64)),
    objects={
        "quant.one.f": Made(code=b"\x7fELF one", sources=(0, 1)),
        "quant.other.g": Made(code=bytes(range(256)) * 9, sources=(1,)),
    },
)
WHOLE = to_bytes(ARCHIVE)
HEAD = len(b"chimera kernels 1\n")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(WHOLE)
    assert read_archive(path) == ARCHIVE
    assert to_bytes(read_archive(path)) == WHOLE


@given(place=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_every_bit_is_watched(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(WHOLE[:place] + bytes([WHOLE[place] ^ 1 << bit]) + WHOLE[place + 1 :])
    with pytest.raises(ArchiveError, match=r"damaged|no archive of kernels of this version"):
        read_archive(path)


@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_cut_file_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ArchiveError):
        read_archive(path)


@pytest.mark.parametrize(
    "inside",
    [
        b"",
        b"\xff\xff\xff\xff{}",
        b"\x02\0\0\0{}",
        b"\x02\0\0\0[]",
        b"\x04\0\0\0nope",
        b'\x36\0\0\0{"level":"","versions":{},"sources":[],"objects":[1,2]}',
    ],
)
def test_a_right_digest_of_nonsense_is_refused_too(tmp_path: Path, inside: bytes) -> None:
    path, body = tmp_path / "x", zlib.compress(inside)
    path.write_bytes(WHOLE[:HEAD] + hashlib.sha256(body).digest() + body)
    with pytest.raises(ArchiveError, match="is no archive of kernels"):
        read_archive(path)


def test_what_cannot_be_used_is_told_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(cache, "note", told.append)
    some = tuple(level for level in LEVELS if level.name in ("x86-64-v3", "x86-64-v2", "x86-64"))
    nothing = open_objects(some, folder=tmp_path)
    assert nothing.find("quant.one.f") == f"there are no objects in {tmp_path}; `make kernels` makes them"
    assert not told
    path_of("x86-64", folder=tmp_path).write_bytes(WHOLE)
    path_of("x86-64-v2", folder=tmp_path).write_bytes(WHOLE[:-1])
    path_of("x86-64-v3", folder=tmp_path).write_bytes(WHOLE)
    found = open_objects(some, folder=tmp_path)
    assert found.levels == ("x86-64",)
    assert "holds the objects of x86-64;" in told[0]
    assert "x86-64-v2.objects is damaged; its kernels are compiled" in told[1]
