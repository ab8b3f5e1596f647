"""What a person sees, on a terminal and through a pipe."""

import io
import math
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from chimera.train.display import (
    LINE_SECONDS,
    Display,
    LineDisplay,
    LiveDisplay,
    Silent,
    bytes_of,
    display_for,
    duration,
    line_of,
)
from chimera.train.meter import Reading

RED = "\x1b[1;31m"


def reading(step: int = 1, **changes: Any) -> Reading:
    values: dict[str, Any] = {
        "step": step, "num_steps": 100, "tokens": step * 1000, "loss": 2.5, "bits_per_byte": 1.25,
        "smooth_loss": 2.6, "smooth_bits_per_byte": 1.3, "grad_norm": 0.75, "rate": 3e-4, "terms": {},
        "tokens_per_s": 12345.6, "model_flops_used": 0.412, "memory_bytes": 3_400_000_000,
        "seconds_left": 3723.0, "expert_violation": 0.1, "expert_entropy": 0.98, "unbalanced": False,
    }  # fmt: skip
    return Reading(**(values | changes))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool, width: int = 160) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=width, color_system="standard"), stream


def test_a_line_says_all_that_matters():
    line = line_of(reading(7))
    for words in (
        "step 7/100", "loss 2.6000", "1.300 bits/byte", "12,346 tokens/s", "MFU 41.2%", "3.4 GB",
        "gradient 0.75", "rate 3.00e-04", "busiest expert +10%", "1:02:03 left",
    ):  # fmt: skip
        assert words in line


def test_what_is_not_known_is_not_said():
    line = line_of(reading(smooth_bits_per_byte=None, expert_violation=None))
    assert "bits" not in line
    assert "expert" not in line


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_the_stream_decides_the_display(quiet: bool, terminal: bool):
    shown = display_for(console(terminal=terminal)[0], quiet=quiet)
    assert type(shown) is (Silent if quiet else LiveDisplay if terminal else LineDisplay)


def test_a_pipe_gets_the_first_the_last_and_some_lines_between():
    clock = Clock()
    to, stream = console(terminal=False, width=20)
    with LineDisplay(to, clock=clock) as shown:
        for step in range(1, 101):
            shown.update(reading(step))
            clock.now += LINE_SECONDS / 10
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/100" for step in (*range(1, 100, 10), 100)]
    assert "\x1b" not in stream.getvalue()


def displays() -> list[tuple[Display, io.StringIO]]:
    to_pipe, pipe = console(terminal=False)
    to_terminal, terminal = console(terminal=True)
    return [(LineDisplay(to_pipe, clock=Clock()), pipe), (LiveDisplay(to_terminal, clock=Clock()), terminal)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grad_norm": 0.0}, "the gradient norm is exactly 0"),
        ({"grad_norm": math.inf}, "the gradient norm is inf"),
        ({"loss": math.nan}, "the loss is nan"),
        ({"unbalanced": True}, "the experts are out of balance"),
    ],
)
def test_an_alarm_is_told_once_as_long_as_it_lasts(change: dict[str, Any], words: str):
    for shown, stream in displays():
        with shown:
            for step in range(2, 9):
                # Wrong in steps 3 to 5, and again in step 7.
                shown.update(reading(step, **(change if step in (3, 4, 5, 7) else {})))
        assert stream.getvalue().count(words) == 2
        assert f"step 3: {words}" in stream.getvalue()
        assert f"step 7: {words}" in stream.getvalue()


def test_an_alarm_is_red_in_its_own_line_and_in_the_figures():
    to, stream = console(terminal=True)
    with LiveDisplay(to, clock=Clock()) as shown:
        shown.update(reading(5, grad_norm=0.0))
    assert f"{RED}step 5: the gradient norm is exactly 0" in stream.getvalue()
    assert f"{RED}gradient 0" in stream.getvalue()
    to, stream = console(terminal=True)
    with LiveDisplay(to, clock=Clock()) as shown:
        shown.update(reading(5))
    assert RED not in stream.getvalue()
    assert "gradient 0.75" in stream.getvalue()


def test_a_terminal_is_drawn_on_now_and_then_and_given_back():
    clock = Clock()
    to, stream = console(terminal=True)
    with LiveDisplay(to, clock=clock) as shown:
        for step in range(1, 51):
            shown.update(reading(step))
            clock.now += 0.01
        drawn = stream.getvalue().count("bits/byte")
        shown.update(reading(100))
    assert 4 <= drawn <= 6
    assert "100.0%" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120])
def test_the_figures_fit_their_line(width: int):
    to, stream = console(terminal=True, width=width)
    with LiveDisplay(to, clock=Clock()) as shown:
        shown.update(reading(5, expert_violation=0.25))
    plain = Text.from_ansi(stream.getvalue()).plain
    (line,) = (line for line in plain.splitlines() if "loss" in line)
    assert "bits/byte" in line
    assert "tokens/s" in line
    assert ("rate" in line) == (width == 120)
    to, stream = console(terminal=True, width=width)
    with LiveDisplay(to, clock=Clock()) as shown:
        shown.update(reading(5, grad_norm=0.0))
    assert f"{RED}gradient 0" in stream.getvalue()


def test_what_is_said_is_not_taken_for_markup():
    for shown, stream in displays():
        with shown:
            shown.say("saved [bold]run[/bold] :smile:")
        assert "saved [bold]run[/bold] :smile:" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (90_000, "1d 1:00:00")],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_bytes():
    assert (bytes_of(12_345_678), bytes_of(2_000_000_000)) == ("12 MB", "2.0 GB")
