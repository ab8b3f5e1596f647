"""Plots: a long text, and what compute and disk do along some tokens. They need the extra `plot`."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ChimeraError, MissingExtra, UsageError

PLOT_FORMS = (".png", ".svg", ".pdf")
_BLUE, _ORANGE, _RED = "#2a6fbb", "#d97706", "#b91c1c"
_LANES = {"compute": _BLUE, "stall": _RED, "read": _ORANGE}


def check_plot(path: Path) -> None:
    """Refuse what no plot can be written to, before it is measured."""
    if path.suffix not in PLOT_FORMS:
        raise UsageError(
            f"the plot {path}; its name ends in {', '.join(PLOT_FORMS)}", hint="As in: longctx.png"
        )
    if not path.parent.is_dir():
        raise UsageError(f"the plot {path}; there is no folder {path.parent}", hint="Make the folder first.")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        raise MissingExtra(package="matplotlib", extra="plot", purpose="a plot") from None


def plot_far(far: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Write the plot of a report of `runtime.measuring.far`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = far["places"]
    positions = [place["position"] for place in places]
    # A figure of our own and no pyplot: that would look for a screen.
    figure: Any = Figure(figsize=(7, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    times, memory = figure.subplots(2, 1, sharex=True)
    times.fill_between(
        positions,
        [place["quarter_ms"] for place in places],
        [place["three_quarters_ms"] for place in places],
        color=_BLUE,
        alpha=0.2,
        linewidth=0,
        label="middle half",
    )
    times.plot(positions, [place["median_ms"] for place in places], "o-", color=_BLUE, label="median")
    times.set_ylabel("ms a token")
    memory.plot(
        positions, [place["process_bytes"] / 1e6 for place in places], "o-", color=_ORANGE, label="process"
    )
    memory.plot(
        positions, [place["state_bytes"] / 1e6 for place in places], "s--", color=_ORANGE, label="state"
    )
    memory.set_ylabel("memory, MB")
    memory.set_xlabel("position in the text, tokens")
    memory.set_xscale("symlog", linthresh=max(1, min((place for place in positions if place), default=1)))
    for axes in (times, memory):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    _save(figure, path, title=f"{title}: {far['threads']} threads, {far['rounds']} rounds")


def plot_timeline(spans: Sequence[Sequence[Any]], path: Path, *, title: str) -> None:
    """Write the plot; a span is a kind, its begin and its end in seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    begin = min(span[1] for span in spans)
    # A figure of our own and no pyplot: that would look for a screen.
    figure: Any = Figure(figsize=(9, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for lane, (kind, color) in enumerate(reversed(_LANES.items())):
        bars = [((first - begin) * 1e3, (last - first) * 1e3) for what, first, last in spans if what == kind]
        # Reads that run side by side lie over each other, and look the darker for it.
        axes.broken_barh(bars, (lane - 0.4, 0.8), facecolors=color, alpha=0.5 if kind == "read" else 1.0)
    axes.set_yticks(range(len(_LANES)), list(reversed(_LANES)))
    axes.set_xlabel("ms")
    axes.grid(alpha=0.3, axis="x")
    _save(figure, path, title=title)


def _save(figure: Any, path: Path, *, title: str) -> None:
    figure.suptitle(title.replace("$", r"\$"))
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ChimeraError(f"{path} cannot be written: {error.strerror or error}") from None
