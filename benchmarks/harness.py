"""How a benchmark measures: sides take turns in one run, and each passes its correctness gate first."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from quant import cpu
from quant.compiling import on_compile
from quant.kernels.elementary.calls import VectorCall
from quant.kernels.operation import Problem, difference, expected, solve
from quant.kernels.table import OPERATIONS

REST_S = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the things compared."""

    name: str
    run: Callable[[], object]
    per: float = 1.0
    """What one run is divided by: how many products, or how many tokens, it makes."""
    num_bytes: float = 0.0
    """Memory that one run reads, for GB/s."""
    macs: float = 0.0
    """Multiplications with addition in one run, for GMAC/s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A measured side: median, lowest and highest time of the turns."""

    part: str
    name: str
    us: float
    us_low: float
    us_high: float
    gb_s: float
    gmac_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A ratio that has a target."""

    text: str
    found: float
    target: float

    @property
    def is_met(self) -> bool:
        return self.found >= self.target


@dataclass(kw_only=True, slots=True)
class Report:
    """What a run of the benchmarks found."""

    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def measure(
        self, part: str, sides: Sequence[Side], *, turns: int = 15, at_least_s: float = 0.005
    ) -> list[Row]:
        """Time the sides in turns, so that a change of the machine's speed meets all of them.

        Each rests and runs once before it is timed, or it would pay for the side before it: for its threads,
        which spin for a while after their work is done, and for what it put into the caches.
        """
        loops = [_loops(side.run, at_least_s=at_least_s) for side in sides]
        times: list[list[float]] = [[] for _ in sides]
        for _ in range(turns):
            for side, count, found in zip(sides, loops, times, strict=True):
                time.sleep(REST_S)
                side.run()
                start = time.perf_counter()
                for _ in range(count):
                    side.run()
                found.append((time.perf_counter() - start) / count)
        rows = [_row(part, side, found) for side, found in zip(sides, times, strict=True)]
        self.rows += rows
        return rows

    def compare(self, text: str, *, found: float, target: float) -> None:
        self.findings.append(Finding(text=text, found=found, target=target))

    def show(self, *, path: Path | None) -> None:
        """Print the tables, and write everything to a file where one is named."""
        console = Console()
        for key, value in self.machine.items():
            console.print(f"{key}: {value}", highlight=False)
        for part in dict.fromkeys(row.part for row in self.rows):
            console.print(_table(part, [row for row in self.rows if row.part == part]))
        for finding in self.findings:
            verdict = "met" if finding.is_met else "missed"
            console.print(f"{verdict:>6}  {finding.found:6.2f} (target {finding.target:.2f})  {finding.text}")
        if path is not None:
            path.write_text(json.dumps(asdict(self), indent=1))


class Part(Protocol):
    """A part of a benchmark, which puts what it finds into a report; `peers` are what is compared with."""

    def __call__(self, report: Report, *, turns: int, peers: bool) -> None: ...


def run_parts(description: str, parts: Mapping[str, Part]) -> None:
    """The command line of a benchmark that is nothing but its parts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default=",".join(parts), help="parts, by comma")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--no-peers", action="store_true", help="without what it is compared with")
    parser.add_argument("--json", type=Path, help="write everything that was found to this file")
    options = parser.parse_args()
    report = Report(machine=machine())
    with on_compile(lambda name: print(f"compiling {name}", flush=True)):
        for part in options.only.split(","):
            parts[part](report, turns=5 if options.quick else 15, peers=not options.no_peers)
    report.show(path=options.json)


def machine() -> dict[str, str]:
    """What figures are of."""
    target = cpu.target()
    return {"cpu": target.name, "target": target.origin, "system": platform.platform()}


def kernel_side(name: str, call: VectorCall, problem: Problem, *, per: float = 1.0) -> Side:
    """An operation by the kernel that this machine would take, behind its gate."""
    operation = OPERATIONS[name]
    kernel = operation.forms[cpu.choose(operation.forms).form]
    gate(name, difference(solve(problem, kernel), expected(operation, problem)))
    address, units = call.table.ctypes.data, call.units

    def run(_alive: VectorCall = call) -> None:
        kernel(address, 0, units)

    return Side(name=name, run=run, per=per)


def gate(name: str, wrong: str) -> None:
    """A side whose result is wrong is not measured: the run ends."""
    if wrong:
        raise SystemExit(f"{name} is wrong, so nothing is measured: {wrong}")


def _loops(run: Callable[[], object], *, at_least_s: float) -> int:
    run()
    start = time.perf_counter()
    run()
    return max(1, int(at_least_s / max(time.perf_counter() - start, 1e-7)))


def _row(part: str, side: Side, seconds: list[float]) -> Row:
    middle = statistics.median(seconds)
    return Row(
        part=part,
        name=side.name,
        us=middle / side.per * 1e6,
        us_low=min(seconds) / side.per * 1e6,
        us_high=max(seconds) / side.per * 1e6,
        gb_s=side.num_bytes / middle * 1e-9,
        gmac_s=side.macs / middle * 1e-9,
    )


def _table(part: str, rows: list[Row]) -> Table:
    table = Table(title=part, title_justify="left", show_edge=False)
    table.add_column("", justify="left")
    for name in ("µs", "lowest", "highest", "GB/s", "GMAC/s"):
        table.add_column(name, justify="right")
    for row in rows:
        rates = [f"{rate:.1f}" if rate else "" for rate in (row.gb_s, row.gmac_s)]
        table.add_row(row.name, f"{row.us:.2f}", f"{row.us_low:.2f}", f"{row.us_high:.2f}", *rates)
    return table
