"""A model's file is read whole once, and again only where it is another one or somebody asks."""

from pathlib import Path

import pytest

from configs.errors import ContainerError
from configs.load import preset
from quant import cache
from quant.container import open_b158
from runtime.random_model import random_b158
from runtime.verified import MOST_REMEMBERED, check_whole


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(cache, "cache_folder", lambda: folder)
    return folder / "whole-files"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    random_b158(preset("micro"), tmp_path / "model.b158", seed=1)
    return tmp_path / "model.b158"


def read(path: Path, *, anew: bool = False) -> int:
    """How many bytes a check reads."""
    seen = [0]
    with open_b158(path) as file:
        check_whole([file], anew=anew, progress=lambda done, total: seen.append(done))
    return seen[-1]


def test_a_file_is_read_once(weights: Path, memory: Path):
    first = read(weights)
    assert 0 < first <= weights.stat().st_size
    assert read(weights) == 0
    assert read(weights, anew=True) == first
    copy = weights.with_name("copy.b158")
    copy.write_bytes(weights.read_bytes())
    assert read(copy) == first
    assert len(memory.read_text().split()) == 2


def test_damage_is_named_and_not_remembered(weights: Path, memory: Path):
    data = bytearray(weights.read_bytes())
    data[-100] ^= 4
    weights.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ContainerError, match=r"model\.b158 is damaged: .*its bytes have the digest"):
            read(weights)
    assert not memory.exists()


def test_where_nothing_can_be_remembered_each_use_reads(weights: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: Path("/proc/nowhere"))
    assert read(weights) == read(weights) > 0


def test_the_memory_has_an_end_and_bears_nonsense(weights: Path, memory: Path):
    memory.parent.mkdir()
    memory.write_bytes(b"\xff\xfe\n" + b"old\n" * (MOST_REMEMBERED + 5))
    assert read(weights) > 0
    assert len(memory.read_text().split()) == MOST_REMEMBERED
    assert read(weights) == 0
