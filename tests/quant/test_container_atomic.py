"""A `.b158` file is either whole or as it was: exceptions, a full disk, a killed process."""

import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ChimeraError
from quant.atomic import atomic_file
from quant.container import open_b158
from quant.container_format import TensorSpec
from quant.container_writer import B158Writer
from quant.embedding import RowWeights
from tests.quant.b158_files import CONFIG, SPECS, weights_of, write_small

ROOT = Path(__file__).parents[2]
LARGE = TensorSpec(name="embedding", kind="int8", shape=(64 * 100, 512))
PIECE = RowWeights(codes=np.ones((64, 512), dtype=np.int8), scales=np.ones(64, dtype=np.float32), bits=8)


@contextmanager
def no_file_longer_than(num_bytes: int) -> Generator[None]:
    """A real limit of the system: a write beyond it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "model.b158"
    write_small(path)
    return path


def assert_untouched(path: Path, before: bytes) -> None:
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with open_b158(path) as file:
        assert file.verify() == ()


def write_and_raise(path: Path, error: type[BaseException]) -> None:
    with B158Writer(path, tensors=SPECS, config=CONFIG) as writer:
        writer.write("embedding", weights_of(SPECS[0]))
        raise error


def write_large(path: Path, *, limit: int) -> None:
    with no_file_longer_than(limit), B158Writer(path, tensors=[LARGE], config=CONFIG) as writer:
        for _ in range(100):
            writer.write("embedding", PIECE)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(old: Path, error: type[BaseException]):
    before = old.read_bytes()
    with pytest.raises(error):
        write_and_raise(old, error)
    assert_untouched(old, before)


@pytest.mark.parametrize("limit", [100, 100_000])
def test_a_full_disk_leaves_the_old_file(old: Path, limit: int):
    """With the lower limit the header fails already, with the higher one the weights."""
    before = old.read_bytes()
    with pytest.raises(ChimeraError, match=r"cannot write .*model\.b158: File too large"):
        write_large(old, limit=limit)
    assert_untouched(old, before)


def test_a_disk_that_is_full_at_the_very_end_leaves_the_old_file(old: Path):
    """The last bytes leave the buffer when the file is closed."""
    size = old.stat().st_size
    before = old.read_bytes()
    with pytest.raises(ChimeraError, match="File too large"), no_file_longer_than(size - 1):
        write_small(old)
    assert_untouched(old, before)


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(ChimeraError, match=r"cannot write .*: No such file or directory"):
        write_small(tmp_path / "no" / "model.b158")


WRITE_AND_WAIT = """
import sys
from quant.container_writer import B158Writer
from tests.quant.test_container_atomic import LARGE, PIECE

with B158Writer(sys.argv[1], tensors=[LARGE], config="{}") as writer:
    for piece in range(100):
        writer.write("embedding", PIECE)
        print(piece, flush=True)
        if piece == 50:
            sys.stdin.read()
"""


@pytest.mark.parametrize("pieces", [1, 51])
def test_a_killed_process_leaves_the_old_file(old: Path, pieces: int):
    before = old.read_bytes()
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(old)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        for _ in range(pieces):
            assert process.stdout.readline()
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert old.read_bytes() == before
    left = [path for path in old.parent.iterdir() if path != old]
    assert [path.suffix for path in left] == [".partial"]
    write_small(old, seed=1)
    with open_b158(old) as file:
        assert file.verify() == ()
    assert [path for path in old.parent.iterdir() if path != old] == []


def test_a_mapped_file_survives_its_replacement(old: Path):
    with open_b158(old) as file:
        codes = file.ternary("layers.0.up").codes
        before = codes.tobytes()
        write_small(old, seed=1)
        assert codes.tobytes() == before
        assert file.verify() == ()
    with open_b158(old) as file:
        assert file.ternary("layers.0.up").codes.tobytes() != before


def test_two_writers_do_not_meet(tmp_path: Path):
    path = tmp_path / "a"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_has_ordinary_permissions(old: Path, tmp_path: Path):
    plain = tmp_path / "plain"
    plain.touch()
    assert old.stat().st_mode == plain.stat().st_mode
