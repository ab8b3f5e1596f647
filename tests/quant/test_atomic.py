"""Files that are whole or not there, and what killed writers leave."""

from pathlib import Path
from typing import cast

import pytest

from quant.atomic import atomic_file, sweep_unfinished


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_new_or_as_it_was(tmp_path: Path):
    path = tmp_path / "file"
    with atomic_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.write(cast(bytes, "no bytes"))
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_goes_with_the_next_of_that_name(tmp_path: Path):
    # Names with signs that a pattern gives a meaning to are names like others.
    path = tmp_path / "model[1].b158"
    left = [tmp_path / f".{name}.12-ab.partial" for name in ("model[1].b158", "other", "model1.b158")]
    for one in left:
        one.write_bytes(b"x")
    with atomic_file(path) as file:
        file.write(b"whole")
    assert names(tmp_path) == sorted(["model[1].b158", left[1].name, left[2].name])


def test_a_writer_at_work_is_left_alone(tmp_path: Path):
    path = tmp_path / "file"
    with atomic_file(path) as first:
        first.write(b"first")
        with atomic_file(path) as second:
            second.write(b"second")
        sweep_unfinished(tmp_path, names="*")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file"]
