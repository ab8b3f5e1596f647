"""Disks that err, files that change while a model runs, packing that is killed: never a wrong token."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chronos_moe.store.manifest import Place
from chronos_moe.store.predictors import Seen, Wish
from chronos_moe.store.reading import Reader
from configs.errors import ClusterError, DiskError, ModelError, UsageError
from exports.pack_experts import pack_experts
from runtime import interrupts
from runtime.cli.experts_numbers import tell_ahead_ended
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.head import Speaker
from runtime.state import State
from runtime.stream import Stream
from tests.runtime.experts.conftest import PROMPT, Both, asked, read

LONG_S = 60


@pytest.fixture
def copied(both: Both, tmp_path: Path) -> Path:
    shutil.copytree(both.packed, tmp_path / "packed")
    return tmp_path / "packed"


def test_a_read_that_fails_stops_the_stream_and_no_other(both: Both, copied: Path):
    path = copied / "experts-000.ctsr"
    whole = path.read_bytes()
    with Engine.open(copied, num_threads=2, experts=asked(both, 2)) as engine:
        state = engine.new_state()
        engine.prefill(state, both.ids[:PROMPT])
        kept = state.copy()
        os.truncate(path, 4096)
        with pytest.raises(DiskError, match=r"experts-000\.ctsr: expert \d+ of layer \d+ could not be read"):
            engine.prefill(state, both.ids[PROMPT:])
        with pytest.raises(UsageError, match="left in the middle of a token"):
            engine.step(state, 1)
        with pytest.raises(UsageError, match="left in the middle of a token"):
            engine.step(state.copy(), 1)
        path.write_bytes(whole)
        for number, token in enumerate(both.ids[PROMPT:]):
            engine.step(kept, int(token))
            assert np.array_equal(engine.logits(), both.expected[number + 1])


def test_a_stream_that_was_stopped_reads_on_once_the_disk_is_well(both: Both, copied: Path):
    path = copied / "experts-000.ctsr"
    whole = path.read_bytes()
    with Engine.open(copied, num_threads=1, experts=asked(both, 2)) as engine:
        stream = Stream(Speaker(engine, num_ids=engine.config.vocab_size), spacing=16)
        stream.accept(both.ids[:PROMPT].tolist())
        stream.catch_up()
        stream.accept(both.ids[PROMPT:].tolist())
        os.truncate(path, 4096)
        with pytest.raises(DiskError):
            stream.catch_up()
        assert 0 < stream.state.position < stream.position
        assert not stream.snapshot().state.is_broken_off
        path.write_bytes(whole)
        stream.catch_up()
        state = stream.state
        assert isinstance(state, State)
        assert state.arena.tobytes() == both.state
        # Whoever hands the state to somebody else keeps and copies no broken one either.
        state.is_broken_off = True
        stream.keep()
        assert not stream.fork().state.is_broken_off
        stream.rewind(PROMPT + 1)
        stream.accept(both.ids[PROMPT + 1 :].tolist())
        stream.catch_up()
        assert isinstance(stream.state, State)
        assert stream.state.arena.tobytes() == both.state


class Dead:
    """A disk that gives nothing any more."""

    def read(self, place: Place, into: memoryview) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def close(self) -> None:
        """There is nothing to close."""


class Hanging:
    """A disk that says nothing for a while, and then all."""

    def __init__(self, alive: Reader) -> None:
        self._alive, self.is_asked, self.goes_on = alive, threading.Event(), threading.Event()

    def read(self, place: Place, into: memoryview) -> None:
        self.is_asked.set()
        self.goes_on.wait()
        self._alive.read(place, into)

    def close(self) -> None:
        self._alive.close()


def test_who_insists_leaves_a_disk_that_hangs_and_loses_nothing(both: Both, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interrupts, "PATIENCE_S", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with Engine.open(both.packed, num_threads=1, experts=asked(both, 2, predictor="none")) as engine:
        assert engine.experts is not None
        store = engine.experts.store
        assert store is not None
        stream = Stream(Speaker(engine, num_ids=engine.config.vocab_size), spacing=16)
        stream.accept(both.ids[:PROMPT].tolist())
        stream.catch_up()
        hanging = Hanging(store._reader)
        store.read_by(hanging)
        stream.accept(both.ids[PROMPT:].tolist())

        def interrupt() -> None:
            hanging.is_asked.wait(LONG_S)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                stream.catch_up()
        finally:
            hanging.goes_on.set()
            thread.join()
            signal.signal(signal.SIGINT, before)
        assert not stream.state.is_broken_off
        stream.catch_up()
        assert isinstance(stream.state, State)
        assert stream.state.arena.tobytes() == both.state


@pytest.mark.parametrize("miss", [{"on_miss": "soft"}, {"on_miss": "deadline", "deadline_ms": 1.0}])
def test_a_dead_disk_stops_a_stream_that_waits_for_nothing(both: Both, miss: dict[str, Any]):
    with Engine.open(both.packed, num_threads=1, experts=ExpertsAsked(predictor="none", **miss)) as engine:
        assert engine.experts is not None
        store = engine.experts.store
        assert store is not None
        alive = store._reader
        store.read_by(Dead())
        with pytest.raises(DiskError, match=r"expert \d+ of layer \d+ could not be read"):
            step_for_long(engine)
        store.read_by(alive)
        while store.num_on_their_way:
            threading.Event().wait(0.001)
        read(engine, both.ids[: PROMPT + 2])


def test_a_dead_disk_stops_a_token_for_which_compiled_code_waits(both: Both):
    with Engine.open(both.packed, num_threads=2, experts=asked(both, 2, predictor="none")) as engine:
        assert engine.experts is not None
        store = engine.experts.store
        assert store is not None
        state = engine.new_state()
        engine.prefill(state, both.ids[:PROMPT])
        kept, alive = state.copy(), store._reader
        store.read_by(Dead())
        with pytest.raises(DiskError, match=r"expert \d+ of layer \d+ could not be read"):
            step_for_long(engine)
        store.read_by(alive)
        for number, token in enumerate(both.ids[PROMPT:]):
            engine.step(kept, int(token))
            assert np.array_equal(engine.logits(), both.expected[number + 1])


def test_a_step_of_a_closed_engine_breaks_no_state(both: Both):
    with Engine.open(both.packed, num_threads=1) as engine:
        state = engine.new_state()
        engine.prefill(state, both.ids[:PROMPT])
    with pytest.raises(UsageError, match="closed"):
        engine.step(state, int(both.ids[PROMPT]))
    with Engine.open(both.packed, num_threads=1) as engine:
        engine.step(state, int(both.ids[PROMPT]))
        assert np.array_equal(engine.logits(), both.expected[1])


def test_bytes_that_change_while_a_model_runs_are_seen_where_that_is_asked(both: Both, copied: Path):
    path = copied / "experts-000.ctsr"
    with Engine.open(copied, num_threads=1, experts=asked(both, 2, is_checked=True)) as engine:
        edited = bytearray(path.read_bytes())
        for begin in range(4096, len(edited), 4096):
            edited[begin] ^= 1
        path.write_bytes(edited)
        with pytest.raises(DiskError, match="not those that were packed"):
            engine.prefill(engine.new_state(), both.ids[:4])


def test_an_edited_file_is_found_before_it_is_run(both: Both, copied: Path):
    path = copied / "experts-000.ctsr"
    edited = bytearray(path.read_bytes())
    edited[-5000] ^= 1
    path.write_bytes(edited)
    with pytest.raises(ModelError, match=r"experts-000\.ctsr is damaged: expert \d of layer \d"):
        Engine.open(copied, verify=True)


class Broken:
    """A predictor with a fault."""

    def predict(self, seen: Seen, *, room: int) -> list[Wish]:
        raise LookupError("no crystal ball")


def step_for_long(engine: Engine) -> None:
    state, end = engine.new_state(), time.monotonic() + LONG_S
    while time.monotonic() < end:
        engine.step(state, 1)


def test_a_predictor_that_fails_ends_reading_ahead_and_no_text(
    both: Both, capsys: pytest.CaptureFixture[str]
):
    with Engine.open(both.packed, num_threads=1, experts=asked(both, 4, predictor=Broken())) as engine:
        assert engine.experts is not None
        assert engine.experts.ahead_error is None
        state, end = engine.new_state(), time.monotonic() + LONG_S
        while engine.experts.ahead_error is None:
            engine.step(state, 1)
            assert time.monotonic() < end
        assert not state.is_broken_off
        found, read_state = read(engine, both.ids)
        report = engine.experts.report()
        tell_ahead_ended(engine)
    assert np.array_equal(found, both.expected)
    assert read_state == both.state
    assert report["ahead_error"] == "LookupError: no crystal ball"
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("experts are no longer read ahead") == 1
    assert "no crystal ball" in told.err


def test_experts_of_another_model_are_refused(both: Both, copied: Path, tmp_path: Path):
    other = pack_experts(both.whole, tmp_path / "other", clusters=None)
    shutil.copy(other.folder / "experts-000.ctsr", copied)
    Engine.open(copied).close()  # the same bytes
    (copied / "cluster_manifest.json").unlink()
    with pytest.raises(ModelError, match=r"there is no experts\.b158 nor cluster_manifest\.json"):
        Engine.open(copied)


PACK = """
import sys
from pathlib import Path
from exports.pack_experts import pack_experts

def told(done, total):
    print(done, flush=True)
    sys.stdin.readline()

pack_experts(Path(sys.argv[1]), Path(sys.argv[2]), progress=told)
"""


def test_packing_that_is_killed_leaves_no_model_and_can_be_done_again(both: Both, tmp_path: Path):
    out = tmp_path / "packed"
    pack_experts(both.whole, out)
    with subprocess.Popen(
        [sys.executable, "-c", PACK, str(both.whole), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with pytest.raises(ModelError, match="cluster_manifest"):
        Engine.open(out)
    pack_experts(both.whole, out)
    assert not list(out.glob(".*.partial"))
    with Engine.open(out, num_threads=2) as engine:
        assert np.array_equal(read(engine, both.ids)[0], both.expected)


def test_what_is_no_model_for_clusters_is_refused(both: Both, copied: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="holds clusters of experts already"):
        pack_experts(copied, tmp_path / "again")
    with pytest.raises(UsageError, match="stays as it is"):
        pack_experts(both.whole, both.whole.parent)
    with pytest.raises(UsageError, match="each is needed once"):
        pack_experts(both.whole, tmp_path / "few", clusters=[[(1, 0)]])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        pack_experts(both.whole, tmp_path / "file")
    (copied / "cluster_manifest.json").write_text("[]")
    with pytest.raises(ClusterError):
        Engine.open(copied)
