"""Streams far into a text: what is said of them is true of their states."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import UsageError
from runtime.engine import Engine
from runtime.measuring.far import far_report
from tests.runtime.engine.models import make_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path: Path = make_model(tmp_path_factory.mktemp("far"))
    with Engine.open(path, num_threads=1) as opened:
        yield opened


def test_streams_are_read_to_their_positions_in_order(engine: Engine):
    told: list[tuple[int, int]] = []
    report = far_report(
        engine, positions=(2100, 0, 30, 30), turns=3, progress=lambda done, total: told.append((done, total))
    )
    assert [place["position"] for place in report["places"]] == [0, 30, 2100]
    assert [done for done, _ in told] == [30, 1054, 2078, 2100]
    assert {total for _, total in told} == {2100}
    medians = [place["median_ms"] for place in report["places"]]
    assert report["slowest_over_fastest"] == pytest.approx(max(medians) / min(medians))
    for place in report["places"]:
        assert place["quarter_ms"] <= place["median_ms"] <= place["three_quarters_ms"]
        assert place["state_bytes"] == engine.state_bytes()
        assert place["process_bytes"] > place["state_bytes"]


def test_a_stream_is_moved_without_reading(engine: Engine):
    told: list[int] = []
    report = far_report(
        engine, positions=(10, 10**9), turns=1, way="moving", progress=lambda done, total: told.append(done)
    )
    assert report["reached_by"] == "moving"
    assert [place["position"] for place in report["places"]] == [10, 10**9]
    assert told == []


@pytest.mark.parametrize(("positions", "turns"), [((), 1), ((-1, 5), 1), ((5,), 0)])
def test_nothing_to_measure_is_refused(engine: Engine, positions: tuple[int, ...], turns: int):
    with pytest.raises(UsageError, match="positions are 0 or more, and turns 1 or more"):
        far_report(engine, positions=positions, turns=turns)
