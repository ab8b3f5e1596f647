"""What each method of fine-tuning learns of three tasks, how long it takes and how much memory.

    python -m benchmarks.finetune WORK              all that is not in WORK/results.jsonl yet
    python -m benchmarks.finetune WORK --tasks mood --methods scales adamw --seeds 1 --steps-share 0.5
    python -m benchmarks.finetune WORK --show       the table, and WORK/finetune.svg

Each run is a process of its own, whose peak memory the system tells. Answers are judged on 500 held-out
questions, with the best token each time. A run that was broken off is done again, and no other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.finetune_tasks.answers import packed_accuracy
from benchmarks.finetune_tasks.tasks import TASKS, Item, items, write_items
from runtime.model_folder import DEMO

RESULTS = "results.jsonl"
PLOT = "finetune.svg"


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A method, and how it is told to learn."""

    steps: int
    options: tuple[str, ...] = ()
    """Of `chimera finetune`, for its methods."""


SIDES: Mapping[str, Side] = {
    "base": Side(steps=0),
    "scales": Side(steps=1000, options=("--method", "scales")),
    "codes": Side(steps=1000, options=("--method", "codes")),
    "state": Side(steps=1000, options=("--method", "state")),
    "mezo": Side(steps=400, options=("--method", "mezo")),
    "mezo sparse": Side(steps=400, options=("--method", "mezo", "--set", "sparse=yes")),
    "mezo light": Side(steps=400, options=("--method", "mezo", "--move", "0.03", "--set", "trained=light")),
    "lora": Side(steps=150),
    "adamw": Side(steps=150),
}
REFERENCES = ("lora", "adamw")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run."""

    task: str
    method: str
    seed: int
    steps: int
    accuracy: float
    seconds: float
    """Of learning, with the start of its process."""
    peak_bytes: int
    file_bytes: int
    """What has to be kept of it beside the model, or instead of it."""
    load: float
    """The machine's load when it ended: others may have slowed it."""


def main() -> None:
    """Do what is missing, then show all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps-share", type=float, default=1.0, help="of the steps that are usual")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="measure nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in () if args.show else range(args.seeds):
        write_items(args.work / f"data-{seed}", seed=seed)
        for task in args.tasks:
            for method in args.methods:
                steps = round(SIDES[method].steps * args.steps_share)
                if any(_is_of(held, task, method, seed, steps) for held in read_results(args.work)):
                    continue
                result = measured(args.work, task, method, seed=seed, steps=steps, threads=args.threads)
                with (args.work / RESULTS).open("a") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
                print(
                    f"{task}, {method}, seed {seed}: {result.accuracy:.1%}, {result.seconds:.0f} s",
                    flush=True,
                )
    results = read_results(args.work)
    show(results)
    plot(results, args.work / PLOT)


def measured(work: Path, task: str, method: str, *, seed: int, steps: int, threads: int) -> Result:
    """Learn in a process of its own, then answer what was held out."""
    out = work / f"{task}-{method.replace(' ', '-')}-{seed}-{steps}"
    held_out = items(task, part="test", seed=seed)
    command = _command(out, work / f"data-{seed}" / task, task, method, seed=seed, steps=steps)
    seconds, peak_bytes, report = (0.0, 0, {}) if not command else run(command, threads=threads)
    if method == "lora":
        accuracy, file_bytes = report["accuracy"], int(report["file_bytes"])
    elif method == "base":
        accuracy, file_bytes = packed_accuracy(DEMO, held_out), 0
    elif method == "adamw":
        accuracy, file_bytes = packed_accuracy(out / "model", held_out), int(report["file_bytes"])
    else:
        log = out / "log.cza"
        accuracy, file_bytes = _accuracy_of_log(log, held_out, method=method), log.stat().st_size
    return Result(
        task=task,
        method=method,
        seed=seed,
        steps=steps,
        accuracy=accuracy,
        # A reference says how long it learnt, since its process judges as well.
        seconds=report.get("seconds", seconds),
        peak_bytes=int(report.get("peak_bytes", peak_bytes)),
        file_bytes=file_bytes,
        load=os.getloadavg()[0],
    )


def run(command: Sequence[str], *, threads: int) -> tuple[float, int, dict[str, float]]:
    """Seconds, the peak of the process and what it says of itself as JSON, if it does."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024, json.loads(said)


def read_results(work: Path) -> list[Result]:
    """What is there; a torn last line is not."""
    path = work / RESULTS
    lines = path.read_text().split("\n") if path.exists() else [""]
    return [Result(**json.loads(line)) for line in lines[:-1]]


def show(results: Sequence[Result]) -> None:
    """A table: a method a row, a task a column, means over seeds."""
    table = Table("method", "steps", *TASKS, "seconds", "peak MB", "file kB", "seeds", box=None)
    for method, found in _by_method(results):
        table.add_row(
            method,
            "/".join(str(steps) for steps in sorted({result.steps for result in found})),
            *(_accuracies([result.accuracy for result in found if result.task == task]) for task in TASKS),
            f"{statistics.mean(result.seconds for result in found):,.0f}",
            f"{statistics.mean(result.peak_bytes for result in found) / 1e6:,.0f}",
            f"{statistics.mean(result.file_bytes for result in found) / 1e3:,.1f}",
            str(len({result.seed for result in found})),
        )
    Console(width=130).print(table)


def plot(results: Sequence[Result], path: Path) -> None:
    """Accuracy of each method on each task, a point a seed."""
    if not results:
        return
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    methods = [method for method, _ in _by_method(results)]
    for place, task in enumerate(TASKS):
        of_task = [result for result in results if result.task == task]
        at = [methods.index(result.method) + (place - 1) * 0.2 for result in of_task]
        axes.plot(at, [100 * result.accuracy for result in of_task], "o", label=task)
    axes.set(xticks=range(len(methods)), xticklabels=methods, ylim=(-3, 103))
    axes.set_ylabel("right answers, %")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)


def _command(out: Path, data: Path, task: str, method: str, *, seed: int, steps: int) -> list[str]:
    """How a method is run; nothing for the model as it is."""
    if method == "base":
        return []
    out.mkdir(exist_ok=True)
    if method in REFERENCES:
        own = [sys.executable, "-m", "benchmarks.finetune_tasks.references", method, str(out)]
        return [*own, "--task", task, "--seed", str(seed), "--steps", str(steps)]
    log = out / "log.cza"
    own = [sys.executable, "-m", "runtime.cli.main", "finetune", "--json"]
    if log.exists():
        return [*own, "--resume", str(log), "--data", str(data / "train.jsonl")]
    told = [
        "--data",
        str(data / "train.jsonl"),
        "--out",
        str(log),
        "--steps",
        str(steps),
        "--seed",
        str(seed),
    ]
    return [*own, *told, *SIDES[method].options]


def _accuracy_of_log(log: Path, held_out: Sequence[Item], *, method: str) -> float:
    if not method.startswith("mezo"):
        return packed_accuracy(DEMO, held_out, adapter=log)
    with TemporaryDirectory() as folder:
        out = str(Path(folder, "model"))
        command = [sys.executable, "-m", "runtime.cli.main", "adapter", "merge", str(DEMO), str(log)]
        subprocess.run([*command, "--out", out], check=True, capture_output=True)
        return packed_accuracy(Path(out), held_out)


def _is_of(held: Result, task: str, method: str, seed: int, steps: int) -> bool:
    return (held.task, held.method, held.seed, held.steps) == (task, method, seed, steps)


def _by_method(results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    for method in SIDES:
        found = [result for result in results if result.method == method]
        if found:
            yield method, found


def _accuracies(found: Sequence[float]) -> str:
    if not found:
        return "–"
    spread = f" ± {100 * statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{100 * statistics.mean(found):.1f}{spread}"


if __name__ == "__main__":
    main()
