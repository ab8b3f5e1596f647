"""Learning rates at the steps that matter, and the decay that goes with them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.train.schedule import Chain, Rewarmed, Schedule, ScheduleKind
from configs.errors import UsageError


def schedule(kind: ScheduleKind, *, num_steps: int = 1000, warmup_steps: int = 100) -> Schedule:
    return Schedule(kind=kind, peak=3e-4, num_steps=num_steps, warmup_steps=warmup_steps, weight_decay=0.1)


@pytest.mark.parametrize("kind", ["cosine_warmup", "two_stage", "constant"])
def test_the_rate_rises_from_nothing_to_its_peak(kind: ScheduleKind):
    course = schedule(kind)
    assert course.rate(0) == 0.0
    assert course.rate(50) == pytest.approx(1.5e-4)
    assert course.rate(100) == pytest.approx(3e-4)
    assert schedule(kind, warmup_steps=0).rate(0) == pytest.approx(3e-4)


def test_the_cosine_ends_at_a_tenth():
    course = schedule("cosine_warmup")
    assert course.rate(550) == pytest.approx(3e-4 * 0.55)
    assert course.rate(1000) == pytest.approx(3e-5)
    assert course.rate(5000) == pytest.approx(3e-5)
    assert course.rate(325) == pytest.approx(3e-4 * (0.1 + 0.45 * (1 + math.cos(math.pi / 4))))


def test_two_stages_drop_in_the_middle_and_end_at_nothing():
    course = schedule("two_stage")
    assert course.rate(549) == pytest.approx(3e-4 * (1 - 449 / 900))
    assert course.rate(550) == pytest.approx(1e-4)
    assert course.rate(1000) == 0.0
    assert [course.decay(step) for step in (0, 100, 549, 550, 999)] == [0.1, 0.1, 0.1, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["cosine_warmup", "constant"])
def test_other_schedules_decay_to_the_end(kind: ScheduleKind):
    assert {schedule(kind).decay(step) for step in (0, 100, 999, 1000)} == {0.1}


def test_a_run_that_is_all_warm_up_has_no_second_stage_before_its_end():
    course = schedule("two_stage", num_steps=10, warmup_steps=10)
    assert course.rate(9) == pytest.approx(3e-4 * 0.9)
    assert course.decay(9) == 0.1
    assert course.rate(10) == 0.0


@given(
    kind=st.sampled_from(["cosine_warmup", "two_stage", "constant"]),
    num_steps=st.integers(1, 500),
    share=st.floats(0, 1),
)
def test_a_rate_is_never_above_the_peak_and_never_rises_after_warm_up(
    kind: ScheduleKind, num_steps: int, share: float
):
    warmup = int(share * num_steps)
    course = schedule(kind, num_steps=num_steps, warmup_steps=warmup)
    rates = [course.rate(step) for step in range(num_steps + 1)]
    assert all(0.0 <= rate <= 3e-4 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_links_count_their_own_steps():
    first = Schedule(kind="constant", peak=1e-5, num_steps=10, warmup_steps=2)
    second = Schedule(kind="cosine_warmup", peak=5e-6, num_steps=20, warmup_steps=4, weight_decay=0.1)
    chain = Chain(links=(first, second))
    assert chain.num_steps == 30
    assert [chain.rate(step) for step in (0, 2, 9)] == [0.0, 1e-5, 1e-5]
    assert [chain.rate(step) for step in (10, 12, 14)] == [0.0, 2.5e-6, 5e-6]
    assert chain.rate(30) == chain.rate(99) == pytest.approx(5e-7)
    assert (chain.decay(9), chain.decay(10)) == (0.0, 0.1)


def test_a_restart_of_the_moments_rises_anew():
    course = schedule("cosine_warmup")
    again = Rewarmed(course=course, at_step=400, num_steps=20)
    assert again.rate(399) == course.rate(399)
    assert again.rate(400) == 0.0
    assert again.rate(410) == pytest.approx(course.rate(410) / 2)
    assert again.rate(420) == course.rate(420)
    assert again.decay(410) == 0.1


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UsageError, match="2000 steps of warm-up in a run of 100"):
        schedule("cosine_warmup", num_steps=100, warmup_steps=2000)
    with pytest.raises(UsageError, match="a schedule of 0 steps"):
        schedule("constant", num_steps=0, warmup_steps=0)
