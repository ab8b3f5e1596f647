"""A log that survives being killed: whole lines, each step once."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.train.log import RunLog, read_log
from configs.errors import DataError


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_log(path)]


def test_every_record_is_readable_at_once(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    with RunLog(path, steps_done=0) as log:
        for step in (1, 2):
            log.write({"step": step, "loss": 1.5})
            assert steps(path)[-1] == step
    assert [json.loads(line) for line in path.read_text().splitlines()] == read_log(path)


def test_what_was_cut_short_and_what_came_after_the_checkpoint_is_dropped(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    with RunLog(path, steps_done=0) as log:
        for step in range(1, 8):
            log.write({"step": step})
        log.write({"step": 5, "validation": {"bits_per_byte": 1.0}})
    with path.open("ab") as file:
        file.write(b'{"step": 8, "lo')
    with RunLog(path, steps_done=5) as log:
        assert log.records_kept == 6
        log.write({"step": 6})
    assert steps(path) == [1, 2, 3, 4, 5, 5, 6]


@given(kept=st.integers(0, 10), cut=st.integers(0, 200))
def test_wherever_a_line_is_cut_the_whole_ones_stay(
    kept: int, cut: int, tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    lines = b"".join(json.dumps({"step": step, "loss": 0.25}).encode() + b"\n" for step in range(1, 6))
    path.write_bytes(lines[:cut])
    whole = lines[:cut].count(b"\n")
    with RunLog(path, steps_done=kept) as log:
        log.write({"step": kept + 1})
    assert steps(path) == [*range(1, min(kept, whole) + 1), kept + 1]


def test_what_is_no_number_is_text(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    with RunLog(path, steps_done=0) as log:
        log.write({"step": 1, "loss": math.nan, "terms": {"a": math.inf, "b": [-math.inf, 1.0]}})
    assert read_log(path) == [{"step": 1, "loss": "nan", "terms": {"a": "inf", "b": ["-inf", 1.0]}}]


@pytest.mark.parametrize(
    "line", [b"not json", b"[1]", b'{"loss": 1}', b'{"step": "1"}', b'{"step": true}', b""]
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: bytes):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"log.jsonl:2: not a record"):
        RunLog(path, steps_done=9)
    assert path.read_bytes().count(b"\n") == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from chimera.train.log import RunLog
log = RunLog(Path(sys.argv[1]), steps_done=0)
for step in range(1, 4):
    log.write({"step": step})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_loses_no_line(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert steps(path) == [1, 2, 3]
