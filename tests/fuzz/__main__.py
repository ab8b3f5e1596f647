"""Search all loaders for inputs that they fail on: `python -m tests.fuzz SECONDS`, or `make fuzz`.

The time is shared among the loaders. What was learnt is kept in a folder and the next search goes on from
there; a finding is an input and a text that says what went wrong. The exit code tells whether there is any.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import ROOT, SCRATCH, memory_folder
from tests.fuzz.targets import TARGETS

FOLDER = ROOT / ".cache" / "fuzz"
LONGEST_INPUT_SECONDS = 60
MOST_RESTARTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a search of one loader came to."""

    name: str
    executions: int
    seconds: float
    cpu_seconds: float
    edges: int
    corpus: int
    findings: tuple[str, ...]


def searched(name: str, *, folder: Path, seconds: float, runs: int | None = None, seed: int = 0) -> Outcome:
    """Search one loader for a time or a number of executions, in processes of their own.

    Native code that crashes ends its process; the search then goes on in another until the time is over.
    """
    findings, corpus = folder / "findings", folder / "corpus" / name
    for one in (findings, corpus):
        one.mkdir(parents=True, exist_ok=True)
    begun, cpu_begun, executions, edges, held = time.monotonic(), _cpu_of_children(), 0, 0, 0
    for restart in range(MOST_RESTARTS):
        left = seconds - (time.monotonic() - begun)
        if left <= 1 or (runs is not None and restart):
            break
        limit = [f"-runs={runs}"] if runs is not None else [f"-max_total_time={int(left)}"]
        flags = [
            *limit,
            f"-seed={seed + restart + 1}",
            f"-timeout={LONGEST_INPUT_SECONDS}",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
            f"-artifact_prefix={findings}/{name}-",
        ]
        command = [sys.executable, "-m", "tests.fuzz.searcher", name, str(findings), *flags, str(corpus)]
        with tempfile.TemporaryDirectory(prefix="chimera-fuzz-", dir=memory_folder()) as scratch:
            # Texts hash alike in every run, so that a seed gives the same search.
            environment = {**os.environ, "PYTHONHASHSEED": "0", SCRATCH: scratch}
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace"
            )
        counts = re.findall(r"^#(\d+)\s.*?cov: (\d+) .*?corp: (\d+)", done.stderr, re.MULTILINE)
        if not counts:
            raise RuntimeError(f"{name}: the search did not begin:\n{done.stdout}{done.stderr}")
        executions += int(counts[-1][0])
        edges, held = max(edges, int(counts[-1][1])), int(counts[-1][2])
        if done.returncode == 0:
            break
        (findings / f"{name}-process-{seed + restart}.txt").write_text(done.stderr[-4000:])
    return Outcome(
        name=name,
        executions=executions,
        seconds=time.monotonic() - begun,
        cpu_seconds=_cpu_of_children() - cpu_begun,
        edges=edges,
        corpus=held,
        findings=tuple(sorted(path.name for path in findings.glob(f"{name}-*.txt"))),
    )


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as a table."""
    heads = (("processor s", 12), ("executions", 12), ("branches", 10), ("inputs kept", 13), ("findings", 10))
    head = f"{'loader':<14}" + "".join(f"{name:>{width}}" for name, width in heads)
    rows = [
        f"{one.name:<14}{one.cpu_seconds:>12,.0f}{one.executions:>12,}{one.edges:>10,}{one.corpus:>13,}"
        f"{len(one.findings):>10}"
        for one in outcomes
    ]
    return "\n".join([head, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seconds", type=float, help="for all loaders together")
    parser.add_argument("--only", choices=TARGETS, action="append", metavar="LOADER", help="may come often")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what was learnt and what was found")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    names = options.only or list(TARGETS)
    outcomes = []
    for name in names:
        share = options.seconds / len(names)
        outcomes.append(searched(name, folder=options.folder, seconds=share, seed=options.seed))
        print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(outcomes))
    found = [finding for outcome in outcomes for finding in outcome.findings]
    print(f"{len(found)} findings in {options.folder / 'findings'}" if found else "nothing was found")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
