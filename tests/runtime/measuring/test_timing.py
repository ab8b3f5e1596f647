"""Times of a machine that others use too are kept apart."""

import statistics

import pytest

from runtime.measuring import timing
from runtime.measuring.timing import Times


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands where the test puts it."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def take(times: Times, clock: list[float], seconds: float, *, alone: bool = True, parts: int = 1) -> None:
    def action() -> None:
        clock[0] += seconds

    times.take(action, has_all_threads=lambda: alone, parts=parts)


def test_a_time_is_that_of_one_of_its_parts(clock: list[float]):
    times = Times()
    take(times, clock, 6.0, parts=4)
    assert times.median_s == 1.5
    assert len(times) == 1


def test_the_median_is_of_times_with_all_threads_if_they_are_enough(clock: list[float]):
    times = Times()
    for seconds, alone in ((9.0, False), (1.0, True), (8.0, False), (2.0, True), (3.0, True), (7.0, False)):
        take(times, clock, seconds, alone=alone)
    assert not times.were_shared
    assert times.median_s == 2.0


def test_too_few_of_them_say_nothing(clock: list[float]):
    times = Times()
    taken = ((1.0, True), (7.0, False), (8.0, False), (9.0, False))
    for seconds, alone in taken:
        take(times, clock, seconds, alone=alone)
    assert times.were_shared
    assert times.median_s == statistics.median(seconds for seconds, _ in taken)


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_core_that_was_taken_at_either_end_counts(clock: list[float], when: str):
    times, asked = Times(), []

    def has_all() -> bool:
        asked.append(None)
        return len(asked) != (1 if when == "before" else 2)

    times.take(lambda: None, has_all_threads=has_all)
    assert (len(times.alone_s), len(times.shared_s)) == (0, 1)
