"""From the start of a process to the first word of an answer, and the memory that it takes at most.

python -m benchmarks.start [--turns N] [--model MODEL]

The sides take turns: kernels from objects made ahead of time, and kernels that the compiler made before and
kept (CHIMERA_JIT=1). A first start comes once, with an empty cache and the objects.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.model_folder import DEMO, find_weights

PROMPT = "Write a short story about a kind giraffe."
TARGET_S, TARGET_BYTES = 0.6, 150_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """One process."""

    first_s: float
    """Until the first byte of the answer."""
    whole_s: float
    cpu_s: float
    peak_bytes: int
    text: bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and fail where the sides' texts differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--model", default=str(DEMO))
    args = parser.parse_args(argv)
    sides: dict[str, Mapping[str, str]] = {"objects": {}, "compiled before": {"CHIMERA_JIT": "1"}}
    found: dict[str, list[Start]] = {}
    with tempfile.TemporaryDirectory() as empty:
        found["objects, first start"] = [start(args.model, {"XDG_CACHE_HOME": empty})]
    for environment in sides.values():
        start(args.model, environment)  # whatever is made at a first use is made
    for _ in range(args.turns):
        for name, environment in sides.items():
            found.setdefault(name, []).append(start(args.model, environment))
    files = find_weights(Path(args.model)).stat().st_size
    print(f"| kernels | first word, s | lowest | CPU, s | peak, MB | without the {files / 1e6:.1f} MB file |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, starts in found.items():
        first, peak = median(starts, "first_s"), median(starts, "peak_bytes")
        least, cpu_s = min(one.first_s for one in starts), median(starts, "cpu_s")
        beside = (peak - files) / 1e6
        print(f"| {name} | {first:.2f} | {least:.2f} | {cpu_s:.2f} | {peak / 1e6:.0f} | {beside:.0f} |")
    same = len({one.text for starts in found.values() for one in starts}) == 1
    best = found["objects"]
    print(f"the same text: {'yes' if same else 'NO'}")
    print(f"first word in at most {TARGET_S} s: {'yes' if median(best, 'first_s') <= TARGET_S else 'no'}")
    met = median(best, "peak_bytes") - files <= TARGET_BYTES
    print(f"memory beside the file at most {TARGET_BYTES / 1e6:.0f} MB: {'yes' if met else 'no'}")
    return 0 if same else 1


def start(model: str, environment: Mapping[str, str]) -> Start:
    """Start a process, read its answer, wait for its end."""
    command = [sys.executable, "-m", "runtime.cli.run", "-m", model, PROMPT, "--seed", "1", "-n", "24"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("CHIMERA_", "NUMBA_"))}
    begin = time.perf_counter()
    child = subprocess.Popen(command, env={**ours, **environment}, stdout=subprocess.PIPE, bufsize=0)
    assert child.stdout is not None
    text = os.read(child.stdout.fileno(), 1)
    first = time.perf_counter() - begin
    while piece := os.read(child.stdout.fileno(), 65536):
        text += piece
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    if child.returncode or not text:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return Start(
        first_s=first,
        whole_s=time.perf_counter() - begin,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
        text=text,
    )


def median(starts: Sequence[Start], name: str) -> float:
    """The middle one of the processes, by one of their numbers."""
    return statistics.median(float(getattr(one, name)) for one in starts)


if __name__ == "__main__":
    sys.exit(main())
