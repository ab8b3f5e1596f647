"""`--memory-limit`: a process takes what it is said to need, and no change of a talk goes beyond it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import NotEnoughMemory
from configs.load import preset
from runtime import footprint
from runtime.cli import room
from runtime.cli.main import main
from runtime.engine import Engine
from runtime.model_folder import open_model
from tests.runtime.cli.talking import ROOT, make_model
from tests.runtime.cli.test_run import piped

MIB = 2**20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def answered(model: Path, limit: str) -> "subprocess.CompletedProcess[str]":
    words = ["-m", str(model), "--memory-limit", limit, "--json", "-n", "40", "Tell me of rivers."]
    command = [sys.executable, "-m", "runtime.cli.run", *words]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )


def test_what_is_said_to_be_needed_is_what_is_taken(model: Path):
    assert answered(model, "4G").returncode == 0, "all kernels are compiled from here on"
    limit, told = 1, ""
    while limit < 4096:
        result = answered(model, f"{limit}M")
        if result.returncode == 0:
            break
        assert (result.returncode, result.stdout) == (4, "")
        told = json.loads(result.stderr)["error"]["message"]
        needed = re.search(r"([0-9,]+) MiB are needed", told)
        assert needed is not None, told
        # Two processes differ by some pages.
        limit = int(needed[1].replace(",", "")) + 2
    assert "at least" not in told, "the last refusal came when all was built, and counted it"
    for part in ("the program", "the files", "buffers", "the state and a copy of it"):
        assert f"MiB for {part}" in told
    assert json.loads(result.stdout)["stats"]["memory_mb"] * 1e6 <= limit * MIB


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of a thousand bytes, whatever runs in this process."""
    monkeypatch.setattr(footprint, "bytes_beside", lambda files: 1000)
    monkeypatch.setattr(room, "bytes_beside", lambda files: 1000)


def need_of(model: Path, rounds: int) -> int:
    with Engine(open_model(model), num_threads=1) as engine:
        bare = engine.need(rounds).total_bytes + 1000
    return bare + room.TALK_BYTES + room.DRAW_BYTES * preset("micro").vocab_size


@pytest.mark.usefixtures("exact")
def test_rounds_that_do_not_fit_leave_a_talk_as_it_is(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def chat(lines: str, limit: int) -> tuple[int, list[str], str]:
        piped(monkeypatch, lines.encode())
        given = ["-m", str(model), "--seed", "7", "-n", "5", "--temp", "0", "--memory-limit", str(limit)]
        code = main(["chat", *given])
        shown = capsys.readouterr()
        return code, shown.out.split("\n"), shown.err

    limit = need_of(model, 2)
    assert need_of(model, 4) > limit
    _, right, _ = chat("one\ntwo\n/set loops 1\nthree\n", limit)
    code, said, told = chat("one\n/set loops 4\n/set mode reasoning\ntwo\n/set loops 1\nthree\n/set\n", limit)
    assert (code, said) == (0, right)
    assert told.count("are needed") == 2
    assert told.count("rounds of the loop from now on") == 1
    assert "loops           1\n" in told
    code, said, told = chat("one\n", limit - 1)
    assert (code, said) == (4, [""])
    assert "are needed" in told


@pytest.mark.usefixtures("exact")
def test_states_are_kept_in_the_room_that_is_left(model: Path):
    limit = need_of(model, 2) + 12345
    with Engine(open_model(model), num_threads=1, memory_limit_bytes=limit) as engine:
        assert room.kept_bytes(engine, 2, screen_bytes=0) == 12345
        assert room.kept_bytes(engine, 2, screen_bytes=345) == 12000
        shrunk = 2 * (engine.state_bytes(2) - engine.state_bytes(1))
        assert room.kept_bytes(engine, 1, screen_bytes=0) == 12345 + shrunk
    with Engine(open_model(model), num_threads=1) as engine:
        assert room.kept_bytes(engine, 4, screen_bytes=0) == room.KEPT_BYTES


@pytest.mark.usefixtures("exact")
def test_a_screen_gives_way_to_a_limit_unless_it_was_asked_for(model: Path):
    with Engine(open_model(model), num_threads=1, memory_limit_bytes=need_of(model, 2)) as engine:
        takes = room.bytes_to_make(engine.head_rows)
        assert takes > 0
        assert room.screen_use("auto", engine, rounds=2) == ("off", 0)
        assert room.screen_use("on", engine, rounds=2) == ("on", takes)
        with pytest.raises(NotEnoughMemory, match="for the screen"):
            room.kept_bytes(engine, 2, screen_bytes=takes)
    with Engine(open_model(model), num_threads=1, memory_limit_bytes=need_of(model, 2) + takes) as engine:
        assert room.screen_use("auto", engine, rounds=2) == ("auto", takes)
        assert room.kept_bytes(engine, 2, screen_bytes=takes) == 0
