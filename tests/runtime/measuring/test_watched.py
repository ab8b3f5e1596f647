"""Processes that are watched: real ones, of the shipped model and of one without words."""

import sys
import time
from pathlib import Path

import pytest

from configs.errors import ChimeraError
from configs.load import preset
from runtime import system
from runtime.measuring.watched import watch
from runtime.model_folder import DEMO
from runtime.random_model import random_b158
from runtime.system import peak_bytes

ARGUMENTS = ("run", "-m", str(DEMO), "-p", "Once upon a time", "-n", "4", "--temp", "0", "-t", "1")


def test_an_answer_of_the_shipped_model():
    begin = time.perf_counter()
    found = watch(*ARGUMENTS)
    assert 0 < found.first_s < time.perf_counter() - begin
    assert found.peak_bytes > (DEMO / "model.b158").stat().st_size


def test_an_engine_alone(tmp_path: Path):
    path = tmp_path / "model.b158"
    random_b158(preset("micro"), path)
    found = watch("engine", str(path), "1", "1", "3")
    assert found.peak_bytes > path.stat().st_size


def test_what_a_process_says_last_is_told(tmp_path: Path):
    with pytest.raises(ChimeraError, match=r"ended with 3 and no answer: .*there is no file .*nothing\.b158"):
        watch("run", "-m", str(tmp_path / "nothing.b158"), "-p", "Once")


def test_the_peak_is_of_this_process_and_never_falls():
    before = peak_bytes()
    assert before >= system.own_bytes() * 0.9
    taken = bytearray(64 * 2**20)
    taken[::4096] = b"x" * len(taken[::4096])
    high = peak_bytes()
    assert high >= before + 32 * 2**20 or high >= 64 * 2**20 + sys.getsizeof(b"")
    del taken
    # Linux counts in batches for each core.
    assert peak_bytes() >= high - 2**20
