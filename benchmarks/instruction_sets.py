"""How fast models run with each kind of instructions that a machine has, in turns, in processes of their own.

    python -m benchmarks.instruction_sets [--models demo,tiny] [--forms default,avx2,ssse3] [--turns N]
                                          [--threads 1,2] [--prompt N] [--answer N] [--repeats N]

`default` is what is chosen without being told; any other name caps the forms, as CHIMERA_CPU does. `demo` is
the shipped model; other presets get random weights. A figure is the median of the turns. Before anything is
timed, the shipped model has to say the same words in every form.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quant import cpu
from runtime.cli.tables import table
from runtime.measuring.benching import weights_of
from runtime.model_folder import DEMO

DEFAULT = "default"
PROMPT = "Write a short story about a kind giraffe."
Found = dict[tuple[str, int, str], list[float]]
"""Tokens a second of each turn, by test, threads and form."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table for each model; fail where texts differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default="demo,tiny")
    parser.add_argument("--forms", help="default: the machine's own, avx2 and ssse3, as far as they are here")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args(argv)
    forms = args.forms.split(",") if args.forms else usual_forms()
    texts = {form: said(form, "run", PROMPT, "--seed", "1", "-n", "48") for form in forms}
    if len(set(texts.values())) > 1:
        print("the forms say different words")
        return 1
    print(
        f"{cpu.target().name}; default: {cpu.allowed_forms()[0]}; the shipped model's text is the same in all"
    )
    for model in args.models.split(","):
        with weights_of(str(DEMO) if model == "demo" else model) as path:
            show(model, measured(path, forms=forms, args=args), forms)
    return 0


def usual_forms() -> list[str]:
    """The machine's own, and what older ones have."""
    lesser = [form for form in ("avx2", "ssse3", "neon") if form in cpu.allowed_forms()[1:]]
    return [DEFAULT, *lesser]


def measured(path: Path, *, forms: Sequence[str], args: argparse.Namespace) -> Found:
    """All turns of a model."""
    found: Found = {}
    sizes = ("-p", str(args.prompt), "-n", str(args.answer), "-r", str(args.repeats), "-t", args.threads)
    for turn in range(-1, args.turns):
        for form in forms:
            report: Mapping[str, Any] = json.loads(
                said(form, "main", "bench", str(path), "--json", "--no-start", *sizes)
            )
            for test in report["tests"] if turn >= 0 else ():
                key = (test["test"], test["threads"], form)
                found.setdefault(key, []).append(test["median_tokens_per_s"])
    return found


def said(form: str, program: str, *arguments: str) -> bytes:
    """What a process of ours prints whose instructions are capped."""
    ours = {name: value for name, value in os.environ.items() if name != "CHIMERA_CPU"}
    more = {} if form == DEFAULT else {"CHIMERA_CPU": form}
    command = [sys.executable, "-m", f"runtime.cli.{program}", *arguments]
    done = subprocess.run(command, env={**ours, **more}, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)  # which has told why
    return done.stdout


def show(model: str, found: Found, forms: Sequence[str]) -> None:
    """Tokens a second, and how many times the default is as fast as each other."""
    rows: list[tuple[str, ...]] = []
    for test, threads in dict.fromkeys(key[:2] for key in found):
        speeds = [statistics.median(found[test, threads, form]) for form in forms]
        ratios = (f"{speeds[0] / speed:.2f} ×" for speed in speeds[1:])
        rows.append((f"{test}, -t {threads}", *(f"{speed:,.0f}" for speed in speeds), *ratios))
    header = (f"<{model}", *forms, *(f"beside {form}" for form in forms[1:]))
    print("", *table(header, rows, indent=0), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
