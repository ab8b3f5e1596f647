"""Parcels for a lent machine: what is unpacked is what was packed, in any order of arrival."""

import filecmp
import random
from pathlib import Path

import pytest

from chimera.train import lent


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Folders like those of shards; their contents do not matter to a parcel."""
    draw = random.Random(0)
    for name in ("train", "val"):
        folder = tmp_path / "work" / name
        folder.mkdir(parents=True)
        for file, size in (("tokens.bin", 300_000), ("empty.npy", 0), ("index.json", 17)):
            (folder / file).write_bytes(draw.randbytes(size))
    return tmp_path / "work"


def test_parcels_are_small_and_come_back_whole(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(lent, "PARCEL_BYTES", 200_000)
    lent.parcels(work)
    found = sorted((work / "parcels").iterdir())
    assert len(found) > 2
    assert all(parcel.stat().st_size <= 200_000 for parcel in found)
    there = tmp_path / "there"
    lent.unpack(there, found[:1])
    assert "more parcels are needed" in capsys.readouterr().out
    lent.unpack(there, found[1:][::-1])
    assert "complete" in capsys.readouterr().out
    for name in ("train", "val"):
        same = filecmp.cmpfiles(
            work / name, there / name, ["tokens.bin", "empty.npy", "index.json"], shallow=False
        )
        assert same[1] == same[2] == []
