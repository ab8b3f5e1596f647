"""What `chimera plan` foretells beside what `chimera bench` then measures, in turn, on random weights.

    python -m benchmarks.plan_beside_bench [--only demo,tiny,chimera-5.1-sum] [--turns 3] [--repeats 3]
                                           [--prompt 512] [--answer 128] [--json FILE]

Each turn of a model is a plan and then a benchmark of every mode of its config, both as they are typed, in
processes of their own. A figure is the median of the turns; a ratio within 15 % is what a plan promises. The
last columns are the speed of memory that either saw: where they differ, so did the machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.measuring.benching import weights_of

MODELS = ("demo", "tiny", "chimera-5.1-sum")
PROMISED = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A mode of a model: tokens a second of an answer and of a prompt."""

    model: str
    mode: str
    rounds: int
    planned: float
    measured: float
    planned_prompt: float
    measured_prompt: float
    planned_reading_gb_s: float
    measured_reading_gb_s: float

    @property
    def ratios(self) -> tuple[float, float]:
        """The plan's figure over that of the benchmark."""
        return self.planned / self.measured, self.planned_prompt / self.measured_prompt


def chimera(*arguments: str) -> Mapping[str, Any]:
    """What the command says in JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", *arguments, "--json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def compared(name: str, path: Path, options: argparse.Namespace) -> list[Row]:
    """All turns of a model."""
    plans: list[Mapping[str, Any]] = []
    benches: list[Mapping[str, Any]] = []
    for _ in range(options.turns):
        plans.append(chimera("plan", name))
        loops = ",".join(str(mode["rounds"]) for mode in plans[0]["modes"])
        sizes = ("-p", str(options.prompt), "-n", str(options.answer), "-r", str(options.repeats))
        benches.append(chimera("bench", str(path), "--no-start", "--loops", loops, *sizes))
    return [
        _row(name, mode["name"], mode["rounds"], plans, benches, options=options)
        for mode in plans[0]["modes"]
    ]


def _row(
    name: str,
    mode: str,
    rounds: int,
    plans: Sequence[Mapping[str, Any]],
    benches: Sequence[Mapping[str, Any]],
    *,
    options: argparse.Namespace,
) -> Row:
    modes = [found for plan in plans for found in plan["modes"] if found["name"] == mode]
    tests = [test for bench in benches for test in bench["tests"] if test["rounds"] == rounds]
    answers = [test for test in tests if test["test"] == f"tg{options.answer}"]
    prompts = [test for test in tests if test["test"] == f"pp{options.prompt}"]
    return Row(
        model=name,
        mode=mode,
        rounds=rounds,
        planned=_median(modes, "decode_tokens_per_s"),
        measured=_median(answers, "median_tokens_per_s"),
        planned_prompt=_median(modes, "prefill_tokens_per_s"),
        measured_prompt=_median(prompts, "median_tokens_per_s"),
        planned_reading_gb_s=_median([plan["machine"] for plan in plans], "read_bytes_per_s") / 1e9,
        measured_reading_gb_s=_median(tests, "read_bytes_per_s") / 1e9,
    )


def _median(found: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(each[name] for each in found)


def show(rows: Sequence[Row]) -> None:
    print("| model | mode, rounds | answer: plan | bench | ratio | prompt: plan | bench | ratio | GB/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        answer, prompt = row.ratios
        print(
            f"| {row.model} | {row.mode}, {row.rounds} | {row.planned:,.1f} | {row.measured:,.1f} | "
            f"{answer:.2f} | {row.planned_prompt:,.0f} | {row.measured_prompt:,.0f} | {prompt:.2f} | "
            f"{row.planned_reading_gb_s:.1f}, {row.measured_reading_gb_s:.1f} |",
            flush=True,
        )
    ratios = [ratio for row in rows for ratio in row.ratios]
    kept = sum(abs(ratio - 1) <= PROMISED for ratio in ratios)
    print(f"\n{kept} of {len(ratios)} within {PROMISED:.0%}; from {min(ratios):.2f} to {max(ratios):.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(MODELS), help="presets, by comma")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="of each benchmark")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--answer", type=int, default=128)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.only.split(","):
        with weights_of(name) as path:
            rows += compared(name, path, options)
    show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
