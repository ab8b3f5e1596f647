"""The curve of a run, loss over tokens: as SVG that we write ourselves, and as PNG where matplotlib is."""

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from chimera.train.log import read_log
from quant.atomic import atomic_file

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 44, 56
MAX_POINTS = 600
"""More points than this are drawn as means of neighbours: a screen shows no more."""
FEW_POINTS = 60
"""Up to so many, points are marked one by one."""
HEADROOM = 0.02
FLAT = 1e-9
"""Heights that differ by no more than this share of themselves are one height."""
COLOURS = ("#1f6fb2", "#d1495b", "#2e8b57", "#8f5fbf", "#c97b12", "#5b6770")


class Curve(NamedTuple):
    """Points joined by a line."""

    name: str
    points: Sequence[tuple[float, float]]


def plot_run(log: Path, folder: Path, *, title: str) -> list[Path]:
    """Draw the log of a run into `folder`; the files that were written. A log without losses gives none."""
    curves, label = curves_of(read_log(log))
    if not curves:
        return []
    return draw(folder / "loss", curves, title=title, x_label="tokens", y_label=label)


def draw(path: Path, curves: Sequence["Curve"], *, title: str, x_label: str, y_label: str) -> list[Path]:
    """Write a picture of some curves, `path` with the suffix of each of its forms; the files written."""
    svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
    with atomic_file(svg) as file:
        file.write(svg_of(curves, title=title, x_label=x_label, y_label=y_label).encode())
    if importlib.util.find_spec("matplotlib") is None:
        return [svg]
    _write_png(png, curves, title=title, x_label=x_label, y_label=y_label)
    return [svg, png]


def curves_of(records: Sequence[Mapping[str, Any]]) -> tuple[list[Curve], str]:
    """Training and validation curves of a log, and what their height is: bits a byte where all have them."""
    steps = [record for record in records if "loss" in record and "tokens" in record]
    validated = [record for record in records if "validation" in record and "tokens" in record]
    inner = [record["validation"] for record in validated]
    key = "bits_per_byte" if steps and all("bits_per_byte" in one for one in (*steps, *inner)) else "loss"
    drawn = [
        Curve("training", _finite((one["tokens"], one[key]) for one in steps)),
        Curve(
            "validation",
            _finite((one["tokens"], one["validation"][key]) for one in validated if key in one["validation"]),
        ),
    ]
    label = "bits per byte" if key == "bits_per_byte" else "nats per token"
    return [curve for curve in drawn if curve.points], label


class _Frame(NamedTuple):
    """Where values lie in the picture."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    x_high: float

    def across(self, x: float) -> float:
        low = self.x_ticks[0]
        return LEFT + (x - low) / (self.x_high - low) * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def svg_of(curves: Sequence[Curve], *, title: str, x_label: str, y_label: str) -> str:
    """A picture of some curves, with axes, ticks and a legend; it needs nothing but a browser to be seen."""
    assert curves
    assert all(curve.points for curve in curves)
    thin = [Curve(curve.name, thinned(curve.points)) for curve in curves]
    xs = [x for curve in thin for x, _ in curve.points]
    x_ticks = ticks(min(0.0, *xs), max(xs))
    x_high = max(xs) if max(xs) > x_ticks[0] else x_ticks[-1]
    frame = _Frame(x_ticks, ticks(*visible_range(thin)), x_high)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
        _text(WIDTH / 2, 24, title, size=15),
        *_axes(frame),
        *(part for place, curve in enumerate(thin) for part in _drawn(curve, place, frame)),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label),
        f'<g transform="rotate(-90 18 {middle})">{_text(18, middle, y_label)}</g>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axes(frame: _Frame) -> Iterator[str]:
    """Lines across at the ticks of the height, ticks below, and the two axes over them."""
    for y in frame.y_ticks:
        yield f'<path d="M{LEFT} {frame.down(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        yield _text(LEFT - 8, frame.down(y) + 4, short(y), anchor="end")
    for x in (x for x in frame.x_ticks if x <= frame.x_high):
        yield f'<path d="M{frame.across(x):.1f} {HEIGHT - BOTTOM}v5" stroke="#333"/>'
        yield _text(frame.across(x), HEIGHT - BOTTOM + 20, short(x))
    yield f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#333"/>'


def _drawn(curve: Curve, place: int, frame: _Frame) -> Iterator[str]:
    """A curve, with its points where they are few, and its line of the legend."""
    colour = COLOURS[place % len(COLOURS)]
    line = " ".join(f"{frame.across(x):.1f},{frame.down(y):.1f}" for x, y in curve.points)
    yield (
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6" '
        'stroke-linejoin="round" clip-path="url(#plot)"/>'
    )
    for x, y in curve.points if len(curve.points) <= FEW_POINTS else ():
        yield (
            f'<circle cx="{frame.across(x):.1f}" cy="{frame.down(y):.1f}" r="2.6" fill="{colour}" '
            'clip-path="url(#plot)"/>'
        )
    top = TOP + 10 + 18 * place
    yield f'<path d="M{WIDTH - RIGHT - 130} {top}h22" stroke="{colour}" stroke-width="3"/>'
    yield _text(WIDTH - RIGHT - 100, top + 4, curve.name, anchor="start")


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points: means over runs of neighbours of equal length."""
    run = -(-len(points) // MAX_POINTS)
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def visible_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """The heights to show: all of them but a steep beginning, so that the rest is not squeezed flat."""
    heights = sorted(y for curve in curves for _, y in curve.points)
    low, high = heights[0], heights[-1]
    usual = heights[int(len(heights) * 0.97)] if len(heights) > 1 else high
    high = min(high, low + 3 * (usual - low)) if usual > low else high
    room = HEADROOM * (high - low) or abs(high) * HEADROOM or 1.0
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose a range, five to ten of them."""
    largest = max(abs(low), abs(high))
    if high - low <= FLAT * largest:
        # Equal, or so near that floats between them run out.
        half = HEADROOM * largest or 0.5
        low, high = low - half, high + half
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (10, 5, 2, 1) if power * factor <= rough * 1.0000001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis: 2500000 as 2.5M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _finite(points: Iterable[tuple[float, Any]]) -> list[tuple[float, float]]:
    """Points whose height is a number; a log has text where a loss was none."""
    return [(x, y) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]


def _write_png(path: Path, curves: Sequence[Curve], *, title: str, x_label: str, y_label: str) -> None:
    # The figure is made without pyplot, which would keep it for the process and ask for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    thin = [Curve(curve.name, thinned(curve.points)) for curve in curves]
    for place, curve in enumerate(thin):
        marker = "o" if len(curve.points) <= FEW_POINTS else None
        axes.plot(
            [x for x, _ in curve.points],
            [y for _, y in curve.points],
            color=COLOURS[place % len(COLOURS)],
            label=curve.name,
            linewidth=1.4,
            marker=marker,
            markersize=3,
        )
    axes.set_ylim(*visible_range(thin))
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(axis="y", alpha=0.4)
    axes.legend(loc="upper right")
    with atomic_file(path) as file:
        figure.savefig(file, format="png")
