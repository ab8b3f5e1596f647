"""Curves that show what the log says, by the numbers in the picture."""

import importlib.util
import math
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.train.log import RunLog
from chimera.train.plot import (
    MAX_POINTS,
    Curve,
    curves_of,
    plot_run,
    short,
    svg_of,
    thinned,
    ticks,
    visible_range,
)

SVG = "{http://www.w3.org/2000/svg}"
FINITE = st.floats(-1e12, 1e12)


def write_log(path: Path, *, steps: int = 100, bits: bool = True) -> Path:
    with RunLog(path, steps_done=0) as log:
        for step in range(1, steps + 1):
            record: dict[str, Any] = {"step": step, "tokens": 1000 * step, "loss": 2.0 + 5.0 / step}
            log.write(record | ({"bits_per_byte": 1.0 + 3.0 / step} if bits else {}))
            if step % 25 == 0:
                log.write(
                    {"step": step, "tokens": 1000 * step, "validation": {"loss": 2.5, "bits_per_byte": 1.5}}
                )
    return path


def test_a_run_is_drawn_without_any_dependency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    log = write_log(tmp_path / "log.jsonl")
    assert plot_run(log, tmp_path, title="a <b> & c") == [tmp_path / "loss.svg"]
    assert not [name for name in sys.modules if name.startswith("matplotlib.pyplot")]
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"a <b> & c", "tokens", "bits per byte", "training", "validation"} <= set(texts)
    assert "100k" in texts
    assert len(root.findall(f"{SVG}polyline")) == 2


def test_a_png_comes_too_where_matplotlib_is(tmp_path: Path):
    log = write_log(tmp_path / "log.jsonl")
    svg, png = plot_run(log, tmp_path, title="run")
    assert svg.suffix == ".svg"
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "matplotlib.pyplot" not in sys.modules


def test_a_log_without_losses_is_not_drawn(tmp_path: Path):
    log = write_log(tmp_path / "log.jsonl", steps=0)
    assert plot_run(log, tmp_path, title="run") == []
    assert not (tmp_path / "loss.svg").exists()


def test_nats_are_drawn_where_a_step_has_no_bytes(tmp_path: Path):
    log = write_log(tmp_path / "log.jsonl", bits=False)
    plot_run(log, tmp_path, title="run")
    assert "nats per token" in (tmp_path / "loss.svg").read_text()


def test_what_was_no_number_is_left_out():
    records = [{"step": 1, "tokens": 1, "loss": "nan"}, {"step": 2, "tokens": 2, "loss": 2.0}]
    curves, label = curves_of(records)
    assert (curves, label) == ([Curve("training", [(2, 2.0)])], "nats per token")


def test_the_line_goes_through_the_points():
    picture = svg_of([Curve("a", [(0, 0.0), (50, 1.0), (100, 0.0)])], title="t", x_label="x", y_label="y")
    line = re.search(r'points="([^"]*)"', picture)
    assert line is not None
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in line[1].split())
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y0 == y2  # down is larger in SVG


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=20))
def test_any_points_can_be_drawn(points: list[tuple[float, float]]):
    ordered = sorted(points)
    root = ElementTree.fromstring(svg_of([Curve("a", ordered)], title="t", x_label="x", y_label="y"))
    drawn = root.find(f"{SVG}polyline")
    assert drawn is not None
    assert all(math.isfinite(float(number)) for number in re.split("[ ,]", drawn.attrib["points"]))


def test_many_points_become_means_of_neighbours():
    points = [(float(x), float(x % 2)) for x in range(10 * MAX_POINTS)]
    few = thinned(points)
    assert len(few) == MAX_POINTS
    assert few[0] == (4.5, 0.5)
    assert thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]


def test_a_steep_beginning_does_not_squeeze_the_rest():
    points = [(0.0, 1000.0), *((float(x), 2.0 - x / 200) for x in range(1, 200))]
    low, high = visible_range([Curve("a", points)])
    assert low < 1.01
    assert 2.0 < high < 10


@given(low=st.floats(-1e9, 1e9), size=st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_around_the_range(low: float, size: float):
    high = low + size
    marks = ticks(low, high)
    step = marks[1] - marks[0]
    assert step > 0
    assert marks[0] <= low + 1e-6 * step
    assert marks[-1] >= high - 1e-6 * step
    assert 5 <= len(marks) <= 15


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (999, "999"), (1500, "1.5k"), (2.5e6, "2.5M"), (3e9, "3B"), (2e12, "2T")],
)
def test_short_numbers(value: float, text: str):
    assert short(value) == text
