"""Speeds, smoothed losses, time left and balance, by a clock that the test turns."""

import math

import pytest
import torch

from chimera.train import meter as meter_module
from chimera.train.meter import Meter, Reading, Smooth, bits_per_byte, peak_memory_bytes

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def meter(clock: Clock, *, num_steps: int = 100, limit: float = 0.15, first_step: int = 0) -> Meter:
    return Meter(
        num_steps=num_steps,
        flops_per_token=1e6,
        peak_flops=1e9,
        device=CPU,
        imbalance_limit=limit,
        first_step=first_step,
        tokens_before=first_step * 64,
        clock=clock,
    )


def read(
    one: Meter, *, loss: float = 2.0, grad_norm: float = 1.0, counts: torch.Tensor | None = None
) -> Reading:
    return one.read(
        loss=loss, grad_norm=grad_norm, rate=1e-3, num_tokens=64, num_bytes=256, expert_counts_LE=counts
    )


def test_speed_use_and_time_left():
    clock = Clock()
    one = meter(clock)
    for _ in range(10):
        clock.now += 0.5
        reading = read(one)
    assert (reading.step, reading.tokens) == (10, 640)
    assert reading.tokens_per_s == pytest.approx(128)
    assert reading.model_flops_used == pytest.approx(0.128)
    assert reading.seconds_left == pytest.approx(45)


def test_a_slow_first_step_and_a_checkpoint_do_not_stay_in_the_speed():
    clock = Clock()
    one = meter(clock)
    clock.now += 60
    read(one)
    for _ in range(20):
        clock.now += 0.5
        read(one)
        clock.now += 100
        one.skip()
    clock.now += 0.5
    assert read(one).tokens_per_s == pytest.approx(128)


def test_a_run_goes_on_counting():
    clock = Clock()
    one = meter(clock, first_step=98)
    clock.now += 1
    reading = read(one)
    assert (reading.step, reading.tokens, reading.seconds_left) == (99, 99 * 64, 1.0)
    read(one)
    assert read(one).seconds_left == 0.0


def test_a_clock_that_stands_still_divides_nothing_by_zero():
    reading = read(meter(Clock()))
    assert (reading.tokens_per_s, reading.seconds_left) == (0.0, 0.0)


def test_bits_per_byte():
    assert bits_per_byte(math.log(2) * 80, 10) == pytest.approx(8.0)
    assert bits_per_byte(1.0, 0) is None
    clock = Clock()
    assert read(meter(clock), loss=math.log(2)).bits_per_byte == pytest.approx(64 / 256)


def test_smoothing_has_no_pull_to_zero_and_survives_what_is_no_number():
    smooth = Smooth()
    assert math.isnan(smooth.add(math.nan))
    assert smooth.add(3.0) == pytest.approx(3.0)
    assert smooth.add(3.0) == pytest.approx(3.0)
    assert smooth.add(math.inf) == pytest.approx(3.0)
    assert 3.0 < smooth.add(5.0) < 4.0


@pytest.mark.parametrize(
    ("loss", "norm", "words"),
    [
        (2.0, 0.0, "exactly 0"),
        (2.0, math.nan, "gradient norm is nan"),
        (2.0, math.inf, "gradient norm is inf"),
        (math.nan, 1.0, "the loss is nan"),
    ],
)
def test_what_is_plainly_wrong_is_an_alarm(loss: float, norm: float, words: str):
    assert words in read(meter(Clock()), loss=loss, grad_norm=norm).alarm
    assert read(meter(Clock()), grad_norm=1e-30).alarm == ""


def test_balance_is_that_of_the_worst_layer_over_a_window(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meter_module, "BALANCE_STEPS", 3)
    one = meter(Clock())
    even, odd = [25, 25, 25, 25], [40, 20, 20, 20]
    readings = [read(one, counts=torch.tensor([even, odd])) for _ in range(4)]
    assert [reading.unbalanced for reading in readings] == [False, False, True, True]
    assert readings[-1].expert_violation == pytest.approx(0.6)
    assert readings[-1].expert_entropy is not None
    assert 0.9 < readings[-1].expert_entropy < 1.0
    for _ in range(3):
        reading = read(one, counts=torch.tensor([even, even]))
    assert (reading.expert_violation, reading.unbalanced) == (0.0, False)


def test_a_wider_limit_is_no_alarm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meter_module, "BALANCE_STEPS", 1)
    odd = torch.tensor([[40, 20, 20, 20]])
    assert read(meter(Clock(), limit=0.15), counts=odd).unbalanced
    assert not read(meter(Clock(), limit=0.7), counts=odd).unbalanced


def test_without_experts_nothing_is_said_of_them():
    named = read(meter(Clock())).as_json()
    assert "expert_violation" not in named
    assert named["loss"] == 2.0
    assert read(meter(Clock()), counts=torch.zeros(0, 4)).expert_violation is None


def test_peak_memory_is_that_of_the_process_and_never_falls():
    before = peak_memory_bytes(CPU)
    assert before > 10 * 2**20
    block = torch.ones(2**22)
    assert peak_memory_bytes(CPU) >= before
    assert block.sum() == 2**22
