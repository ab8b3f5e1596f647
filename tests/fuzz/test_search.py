"""Searching works: every loader for a moment, the same in each run; a fault that was put there is found."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.mutations import changed_bytes, changed_json, parsed, written
from tests.fuzz.target import ROOT, SCRATCH, SEPARATOR, joined, separated
from tests.fuzz.targets import TARGETS
from tests.fuzz.vocabularies import changed_message, small_sentencepiece

EXECUTIONS = 150
# Three letters by chance are one input of millions; letter by letter, each opens a new branch.
FAULTY = """
import atheris, sys
from pathlib import Path
from configs.errors import ConfigError
from tests.fuzz import searcher
from tests.fuzz.mutations import changed_bytes
from tests.fuzz.target import Target

@atheris.instrument_func
def load(data):
    if len(data) > 2 and data[0] == ord("b"):
        if data[1] == ord("u"):
            if data[2] == ord("g"):
                raise ZeroDivisionError("found")
    raise ConfigError("refused")

target = Target(name="faulty", load=load, seeds=lambda: [b"abcdef"], mutate=changed_bytes,
                refusals=(ConfigError,), sources=())
folder = Path(sys.argv[1])
flags = ["-runs=60000", "-seed=1", str(folder)]
searcher.search(target, searcher.Findings(folder, name="faulty"), flags=flags)
"""


def in_process(*command: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", SCRATCH: str(scratch)},
        capture_output=True,
        text=True,
        errors="replace",
    )


@pytest.mark.slow
def test_no_loader_fails_in_a_short_search(tmp_path: Path):
    done = in_process("-m", "tests.fuzz.bounded", str(EXECUTIONS), str(tmp_path / "a"), scratch=tmp_path)
    found = [path.read_text() for path in (tmp_path / "a").glob("*-*.txt")]
    assert found == []
    assert done.returncode == 0, done.stderr[-4000:]
    # The last input of a search may be followed by one that it makes smaller.
    runs = [int(count) for count in re.findall(r"Done (\d+) runs", done.stderr)]
    assert len(runs) == len(TARGETS)
    assert min(runs) >= EXECUTIONS


def test_a_fault_behind_three_branches_is_found_and_its_input_is_kept(tmp_path: Path):
    done = in_process("-c", FAULTY, str(tmp_path), scratch=tmp_path)
    assert done.returncode == 0, done.stderr
    (told,) = tmp_path.glob("faulty-*.txt")
    assert "ZeroDivisionError: found" in told.read_text()
    assert told.with_suffix("").read_bytes().startswith(b"bug")


CHANGES = [
    (changed_json, b'{"a": [1, {"b": "c"}], "d": null}'),
    (changed_bytes, b"abc"),
    (changed_message, small_sentencepiece()),
]


@pytest.mark.parametrize(("change", "data"), CHANGES)
def test_a_change_is_the_same_for_the_same_seed_and_changes(
    change: Callable[[bytes, random.Random], bytes], data: bytes
):
    changed = [change(data, random.Random(seed)) for seed in range(200)]
    assert changed == [change(data, random.Random(seed)) for seed in range(200)]
    assert len(set(changed)) > 100


def test_json_with_a_key_twice_comes_back_as_it_was():
    text = '{"a":1,"a":[{"b":null,"b":"\\u00e9"}],"c":{}}'
    assert written(parsed(text)) == text


def test_files_that_are_joined_come_apart():
    files = {"a": b"1", "c": SEPARATOR[:3]}
    assert separated(joined(files, ("a", "b", "c")), ("a", "b", "c")) == {**files, "b": b""}
