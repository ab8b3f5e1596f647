"""`chimera bench --experts`: the store of experts beside plain mapped files, under one limit of memory."""

import argparse
import csv
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from runtime.cli.choices import parsed_size
from runtime.cli.tables import rate, size, table
from runtime.measuring.experts_bench import ExpertsBench, bench_experts, timeline

PLOT_TOKENS = 6
"""What a plot shows; more cannot be told apart."""
COLUMNS = (
    "side",
    "tokens_per_s",
    "of_resident",
    "disk_bytes_a_token",
    "disk_share",
    "floor_tokens_per_s",
    "stall_ms_a_token",
    "hit_rate",
    "wasted_a_useful",
    "group_peak_bytes",
)
MODEL_COLUMNS = ("experts_bytes", "budget_bytes", "limit_bytes", "disk_peak_bytes_per_s", "threads", "tokens")
NAMES = {
    "resident": "all in memory",
    "store": "the store",
    "pages": "mapped, default reading ahead",
    "random pages": "mapped, MADV_RANDOM",
}
Report = dict[str, Any]


def measure_experts(
    args: argparse.Namespace,
    *,
    model: Path,
    tokens: int,
    threads: int | None,
    rounds: int | None,
    plot: Path | None,
    bar: Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]],
) -> Report:
    """The report, and the plot where one is wanted."""
    if args.on_miss != "strict":
        raise UsageError(
            f"--on-miss {args.on_miss} changes the text, and sides with other texts cannot be compared",
            hint="Leave it out.",
        )
    asked = ExpertsBench(
        model=model,
        budget_bytes=None if args.experts_memory is None else parsed_size(args.experts_memory),
        tokens=tokens,
        threads=threads,
        rounds=rounds,
        policy=args.experts_policy,
        predictor=args.experts_predictor,
        repeats=args.repetitions,
    )
    with bar("measuring") as progress:
        report = bench_experts(asked, done=progress)
    if plot is not None:
        from runtime.measuring.plotting import plot_timeline

        spans = timeline(asked, report, tokens=PLOT_TOKENS)
        plot_timeline(spans, plot, title=f"{report['model']['name'] or model.name}: {PLOT_TOKENS} tokens")
        report["plot"] = str(plot)
    return report


def lines(report: Report, *, form: str) -> list[str]:
    """The report in a form, "md" or "csv"."""
    if form == "csv":
        return _csv(report)
    model, disk = report["model"], report["disk"]
    told = [
        f"{model['experts']:,} experts of {size(model['expert_bytes'])}, {size(report['experts_bytes'])} in "
        f"all; room for {size(report['budget_bytes'])} of them, under a limit of "
        f"{size(report['limit_bytes'])} for the process",
        "the disk, in blocks of an expert's size: "
        + ", ".join(
            f"{one['reader']} × {one['readers']} {one['bytes_per_s'] / 1e6:,.0f} MB/s" for one in disk
        ),
        "",
    ]
    header = ("<", "t/s", "of all in memory", "read a token", "of the disk", "floor t/s", "stall ms", "hits")
    rows = [
        (
            NAMES[side["side"]],
            rate(side["tokens_per_s"]),
            f"{side['of_resident']:.0%}",
            size(side["disk_bytes_a_token"]) if side["disk_bytes_a_token"] else "",
            f"{side['disk_share']:.0%}" if side["disk_bytes_a_token"] else "",
            rate(side["floor_tokens_per_s"]),
            f"{side['stall_ms_a_token']:.1f}" if side["side"] == "store" else "",
            "" if side["hit_rate"] is None else f"{side['hit_rate']:.0%}",
        )
        for side in report["sides"]
    ]
    told += table(header, rows, indent=0)
    told += [
        "",
        "floor: the most tokens a second that compute alone, or the bytes read over the disk's peak, allow",
    ]
    if "plot" in report:
        told.append(f"plot: {report['plot']}")
    return told


def _csv(report: Report) -> list[str]:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*MODEL_COLUMNS, *COLUMNS])
    of_all = [report[name] for name in MODEL_COLUMNS]
    writer.writerows([*of_all, *(side[name] for name in COLUMNS)] for side in report["sides"])
    return text.getvalue().splitlines()
