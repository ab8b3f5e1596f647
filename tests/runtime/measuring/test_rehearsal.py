"""An engine is timed before its model is there."""

from collections.abc import Generator

import numpy as np
import pytest

from configs.load import preset
from runtime.engine import Engine
from runtime.measuring import rehearsal
from runtime.measuring.rehearsal import FAR, move, rehearse
from runtime.measuring.stand_in import StandIn
from runtime.measuring.timing import Times


@pytest.fixture
def engine() -> Generator[Engine]:
    stand_in = StandIn(preset("micro"), cache_bytes=2**20)
    stand_in.fill_rings()
    with Engine(stand_in.model, num_threads=1) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.05)
    monkeypatch.setattr(rehearsal, "_TURN_SECONDS", 0.005)


def test_every_depth_is_timed(engine: Engine):
    told: list[tuple[int, int]] = []
    found = rehearse(engine, [2, 1, 2], progress=lambda done, total: told.append((done, total)))
    assert [pace.rounds for pace in found.paces] == [1, 2]
    for pace in found.paces:
        assert pace.is_measured
        assert min(pace.begin_s, pace.far_s, pace.prompt_s) > 0
    assert told[-1] == (50, 50)
    assert told == sorted(told)


def test_the_steps_of_a_slow_model_are_told_by_the_line(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "_SLOW_STEP_SECONDS", 0.0)
    monkeypatch.setattr(rehearsal, "_LARGE_TOKEN_BYTES", 0)
    one, two, three = rehearse(engine, [1, 2, 3]).paces
    assert [pace.is_measured for pace in (one, two, three)] == [True, False, True]
    for name in ("begin_s", "far_s"):
        assert getattr(two, name) == pytest.approx((getattr(one, name) + getattr(three, name)) / 2)


def test_one_depth_is_enough_for_a_slow_model(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "_SLOW_STEP_SECONDS", 0.0)
    monkeypatch.setattr(rehearsal, "_LARGE_TOKEN_BYTES", 0)
    (pace,) = rehearse(engine, [2]).paces
    assert pace.is_measured


def test_a_stream_that_is_moved_reads_its_whole_window(engine: Engine):
    """Its scores are those of a stream with another past."""
    near, far = engine.new_state(2), engine.new_state(2)
    assert move(engine, far, FAR)
    engine.step(near, 5)
    logits = engine.logits().copy()
    engine.step(far, 5)
    assert np.isfinite(engine.logits()).all()
    assert not np.array_equal(engine.logits(), logits)


def test_times_with_fewer_threads_are_kept_apart():
    times = Times()
    for has_all in (True, False, True):
        times.take(lambda: None, has_all_threads=lambda has_all=has_all: has_all)
    assert (len(times.alone_s), len(times.shared_s), times.were_shared) == (2, 1, True)
    times.take(lambda: None, has_all_threads=lambda: True)
    assert not times.were_shared
