"""Ctrl-C comes between two tokens, wherever it comes: no state is lost, and no talk."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from configs.load import build_config
from exports.pack_experts import pack_experts
from runtime import interrupts
from runtime.interrupts import held_back
from runtime.random_model import random_b158
from tests.runtime.cli.talking import ROOT, make_model
from tests.runtime.experts.conftest import MODELS
from tests.runtime.interrupted import INTERRUPTS

LONG_S = 120
PAUSES_S = {"engine": 0.005, "experts": 0.01, "talk": 0.03}
"""Between two interrupts, at most, to begin with: an answer that is begun anew needs a while."""


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What a handler of interrupts was called for."""
    found: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        found.append("raised" if len(found) else "heard")
        if len(found) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    yield found
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_heard_at_the_end(heard: list[str]):
    with held_back():
        with held_back():
            signal.raise_signal(signal.SIGINT)
        assert heard == []
    assert heard == ["heard"]
    reached = list[int]()

    def go_on() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert reached == [1]


def test_an_error_inside_and_an_interrupt_are_both_told(heard: list[str]):
    def fail() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"):
        fail()
    assert heard == ["heard"]


def test_who_insists_is_heard_where_it_hangs(heard: list[str], monkeypatch: pytest.MonkeyPatch):
    now = [10.0]
    monkeypatch.setattr(interrupts, "monotonic", lambda: now[0])
    reached = list[int]()

    def hang() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            now[0] += interrupts.PATIENCE_S
            reached.append(1)
            signal.raise_signal(signal.SIGINT)
            reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        hang()
    assert reached == [1]
    assert heard == ["heard", "raised"]


def test_nothing_is_held_where_nobody_hears(heard: list[str]):
    def enter() -> None:
        with held_back():
            found.append(signal.getsignal(signal.SIGINT))

    found: list[object] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    for one in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGINT, one)
        enter()
    assert found == [before, signal.SIG_IGN, signal.SIG_DFL]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    whole = make_model(tmp_path_factory.mktemp("whole"))
    source = tmp_path_factory.mktemp("source") / "model.b158"
    config = build_config({"preset": "micro", **MODELS["through a loop"]}, source="test")
    random_b158(config, source, seed=5)
    packed = pack_experts(source, tmp_path_factory.mktemp("experts") / "packed")
    return {"engine": whole, "talk": whole, "experts": packed.folder}


@pytest.mark.parametrize("way", PAUSES_S)
def test_a_process_that_is_interrupted_all_the_time_is_as_one_that_is_not(way: str, folders: dict[str, Path]):
    draws = random.Random(7)
    command = [sys.executable, "-m", "tests.runtime.interrupted", way, str(folders[way])]
    # A slow disk, so that interrupts come in the middle of tokens.
    environment = os.environ | {"CHRONOS_SIM_SSD_MS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        longest, end = PAUSES_S[way], time.monotonic() + LONG_S
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGINT)
            time.sleep(draws.uniform(0.0002, longest))
            longest *= 1.005  # on a slow machine it has to get somewhere as well
        process.kill()
        told = json.loads(process.stdout.read())
    assert told["as ever"]
    assert told["met"] >= INTERRUPTS
