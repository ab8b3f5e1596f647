"""The report of `chimera bench` for readers: Markdown, and CSV for tables elsewhere."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from runtime.cli.tables import count, plain, rate, size

Report: TypeAlias = Mapping[str, Any]

TEST_COLUMNS = (
    "test",
    "threads",
    "fewest_threads",
    "rounds",
    "tokens_per_s",
    "sd_tokens_per_s",
    "median_tokens_per_s",
    "read_bytes_per_s",
    "bytes_per_token",
    "bytes_per_s",
    "share_of_reading",
)
MODEL_COLUMNS = ("name", "parameters", "embedding_bits", "files_bytes")
PROCESS_COLUMNS = ("first_token_s", "peak_bytes")
PLACE_COLUMNS = (
    "position",
    "median_ms",
    "quarter_ms",
    "three_quarters_ms",
    "state_bytes",
    "process_bytes",
)
FAR_COLUMNS = ("reached_by", "turns", "threads", "rounds", "slowest_over_fastest")


def lines(report: Report, *, form: str) -> list[str]:
    """The report in a form, "md" or "csv"."""
    if form == "csv":
        return _csv_far(report) if "longctx" in report else _csv_tests(report)
    return _far(report) if "longctx" in report else _tests(report)


def _csv_tests(report: Report) -> list[str]:
    """A row for each test, with what is true of all of them in every row."""
    process = report.get("process", {})
    header = [*(f"model_{name}" for name in MODEL_COLUMNS), "cpu", *TEST_COLUMNS, *PROCESS_COLUMNS]
    of_model = [report["model"][name] for name in MODEL_COLUMNS]
    rows = [
        [
            *of_model,
            report["machine"]["cpu"],
            *(test.get(name) for name in TEST_COLUMNS),
            *(process.get(name) for name in PROCESS_COLUMNS),
        ]
        for test in report["tests"]
    ]
    return _csv(header, rows)


def _csv_far(report: Report) -> list[str]:
    far = report["longctx"]
    of_all = [report["model"]["name"], *(far[name] for name in FAR_COLUMNS)]
    rows = [[*of_all, *(place[name] for name in PLACE_COLUMNS)] for place in far["places"]]
    return _csv(["model_name", *FAR_COLUMNS, *PLACE_COLUMNS], rows)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().splitlines()


def _tests(report: Report) -> list[str]:
    model, machine = report["model"], report["machine"]
    name = _cell(model["name"] or "without a name")
    told = [
        f"{_cell(machine['cpu'])} ({machine['target']}, {machine['form']})",
        "",
    ]
    header = ("model", "size", "params", "threads", "rounds", "test", "t/s", "bytes/token", "of reading")
    rows = [
        (
            name,
            size(model["files_bytes"]),
            count(model["parameters"]),
            str(test["threads"]),
            str(test["rounds"]),
            test["test"],
            f"{rate(test['tokens_per_s'])} ± {rate(test['sd_tokens_per_s'])}",
            size(test["bytes_per_token"]) if "bytes_per_token" in test else "",
            _share(test),
        )
        for test in report["tests"]
    ]
    if rows:
        told += [*_markdown(header, rows), ""]
        told += [f"- memory is read at {size(report['tests'][0]['read_bytes_per_s'])}/s, in the same run"]
        if any("share_of_reading" in test and not test["is_bound_by_memory"] for test in report["tests"]):
            told += ["- a dash in the last column: the caches can hold what a token reads"]
        if any(test["fewest_threads"] < test["threads"] for test in report["tests"]):
            told += ["- other processes took cores meanwhile, and some of it was done with fewer threads"]
    return told + _process(report.get("process"))


def _share(test: Report) -> str:
    if "share_of_reading" not in test:
        return ""
    return f"{test['share_of_reading']:.0%}" if test["is_bound_by_memory"] else "–"


def _process(process: Report | None) -> list[str]:
    if process is None:
        return []
    beside = size(max(0, process["beside_files_and_state_bytes"]))
    return [
        f"- first token {process['first_token_s']:.2f} s after the start of a process "
        f"({process['answered_by']})",
        f"- peak memory {size(process['peak_bytes'])}: files {size(process['files_bytes'])}, "
        f"state {size(process['state_bytes'])}, all else {beside}",
    ]


def _far(report: Report) -> list[str]:
    far = report["longctx"]
    rows = [
        (
            f"{place['position']:,}",
            f"{place['median_ms']:.3f}",
            f"{place['quarter_ms']:.3f} – {place['three_quarters_ms']:.3f}",
            size(place["state_bytes"]),
            size(place["process_bytes"]),
        )
        for place in far["places"]
    ]
    how = "words were read" if far["reached_by"] == "reading" else "windows were filled and moved"
    told = [
        *_markdown(("position", "ms a token", "middle half", "state", "process"), rows),
        "",
        f"- {_cell(report['model']['name'] or 'the model')}: medians of {far['turns']} turns, "
        f"{far['threads']} threads, {far['rounds']} rounds; {how}",
        f"- the slowest median is {far['slowest_over_fastest']:.3f} of the fastest",
    ]
    if far["fewest_threads"] < far["threads"]:
        told += ["- other processes took cores meanwhile, and some of it was done with fewer threads"]
    return told + ([f"- plot: {plain(report['plot'])}"] if "plot" in report else [])


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown whose columns also stand below each other; numbers at the right."""
    widths = [max(3, *(len(row[place]) for row in (header, *rows))) for place in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(header), line([f"{'-' * (width - 1)}:" for width in widths]), *map(line, rows)]


def _cell(text: str) -> str:
    """A text of somebody's that cannot end a cell."""
    return plain(text).replace("|", "\\|")
