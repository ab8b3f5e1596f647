"""Where a token's time goes: each operation of a model's program, timed inside the compiled call.

    python -m benchmarks.operations MODEL [--tokens 1] [--threads 1] [--rounds 1] [--passes 100]
                                     [--quantile 0] [--json FILE]

The program is the engine's own; only what runs its records is another, which looks at the clock before and
behind each. A figure is the least of all passes, since a shared machine can only add to it; so the sum of
them is a token on a quiet machine, and the share that is spent waiting shows at the end of groups.
"""

import argparse
import ctypes
import inspect
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from quant.indirect import call_kernel
from quant.jit import kernel
from quant.kernels.arguments import NUM_BLOCKS
from quant.kernels.experts import visits
from quant.kernels.rounds import kernels as rounds
from quant.kernels.steering import kernels as steering
from quant.kernels.table import OPERATIONS
from quant.native import address_of
from quant.pool import Pool
from quant.pool_barrier import barrier
from quant.pool_system import now_ns
from quant.registers import i64
from quant.selfcheck import chosen
from quant.simd import put
from runtime.engine import Engine
from runtime.worker_places import (
    ARGUMENTS,
    COUNT,
    ENDS_GROUP,
    JOB_PLACES,
    KERNEL,
    NUM_RECORDS,
    RECORD_PLACES,
    RECORDS,
    UNITS,
    UNITS_PER_TOKEN,
    entry,
)

TIMES, THREAD_BYTES, NUM_PLACES = JOB_PLACES, JOB_PLACES + 1, JOB_PLACES + 2
# What is written for a record by each thread: ns of its work, and ns until the group was over.
WORK, WAIT, TIMES_BYTES = 0, 8, 16


@kernel
def run_timed(job: int, thread: int, num_threads: int, block: int) -> None:
    """As `runtime.worker.run_records`, with a clock."""
    record = entry(job, RECORDS)
    found = entry(job, TIMES) + thread * entry(job, THREAD_BYTES)
    before = now_ns()
    for _ in range(entry(job, NUM_RECORDS)):
        num_tokens = entry(entry(record, COUNT), 0)
        put(i64, found + WORK, 0)
        put(i64, found + WAIT, 0)
        if num_tokens > 0:
            units = entry(record, UNITS) + entry(record, UNITS_PER_TOKEN) * num_tokens
            first, last = units * thread // num_threads, units * (thread + 1) // num_threads
            if first < last:
                call_kernel(entry(record, KERNEL), entry(record, ARGUMENTS), first, last)
            after = now_ns()
            put(i64, found + WORK, after - before)
            before = after
            if entry(record, ENDS_GROUP) != 0:
                barrier(block, thread, num_threads)
                after = now_ns()
                put(i64, found + WAIT, after - before)
                before = after
        record += RECORD_PLACES * 8
        found += TIMES_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What operations of one kind and size take of a token."""

    name: str
    count: int
    work_us: float
    """Of the thread that works longest."""
    wait_us: float
    """Of the thread that waits least: what a meeting takes when all have come."""


def timed(engine: Engine, *, num_tokens: int, rounds: int, passes: int) -> NDArray[np.int64]:
    """Work and wait of each thread in each record, in ns [passes, threads, records, 2]."""
    records, threads = engine._program._records, engine.num_threads
    times = np.zeros((threads, len(records), 2), dtype=np.int64)
    job = np.zeros(NUM_PLACES, dtype=np.int64)
    job[NUM_RECORDS], job[RECORDS] = len(records), records.ctypes.data
    job[TIMES], job[THREAD_BYTES] = times.ctypes.data, times.strides[0]
    state, draws = engine.new_state(rounds), np.random.default_rng(0)
    found = np.zeros((passes, *times.shape), dtype=np.int64)
    with Pool(run_timed, num_threads=threads) as pool:
        for number in range(passes):
            engine._binding.turn_to_one(state, num_tokens, rounds, 0.0)
            engine._ids.lay(draws.integers(0, engine.config.vocab_size, num_tokens))
            pool.run(job.ctypes.data)
            found[number] = times
    return found


def names_of(engine: Engine) -> list[str]:
    """A name for each record: its operation, and for products their size."""
    kernels = {address_of(chosen(name).kernel): name for name in OPERATIONS}
    for module in (steering, visits, rounds):
        kernels |= {address_of(made): name for name, made in vars(module).items() if _is_operation(made)}
    names: list[str] = []
    for row in engine._program._records:
        name = kernels[int(row[KERNEL])]
        if name.endswith("matmul"):
            blocks = ctypes.c_int64.from_address(int(row[ARGUMENTS]) + NUM_BLOCKS * 8).value
            name += f" {row[UNITS] * 32}x{blocks * 64}"
        names.append(name)
    return names


def _is_operation(made: object) -> bool:
    function = getattr(made, "py_func", None)
    return function is not None and [*inspect.signature(function).parameters] == [
        "arguments",
        "first",
        "last",
    ]


def lines(names: list[str], found: NDArray[np.int64], *, quantile: float) -> list[Line]:
    """By name, the longest in all first."""
    work = np.quantile(found[..., 0].max(axis=1), quantile, axis=0) / 1e3
    wait = np.quantile(found[..., 1].min(axis=1), quantile, axis=0) / 1e3
    made: list[Line] = []
    for kind in dict.fromkeys(names):
        at = [place for place, name in enumerate(names) if name == kind]
        if work[at].any():
            count, work_us, wait_us = int((work[at] > 0).sum()), work[at].sum(), wait[at].sum()
            made.append(Line(name=kind, count=count, work_us=float(work_us), wait_us=float(wait_us)))
    return sorted(made, key=lambda line: -line.work_us)


def show(title: str, made: list[Line], *, num_tokens: int) -> None:
    count, work_us, wait_us = (
        sum(line.count for line in made),
        sum(line.work_us for line in made),
        sum(line.wait_us for line in made),
    )
    table = Table(title=title, title_justify="left", show_edge=False)
    for name in ("operation", "count", "work", "wait", "share"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for line in [*made, Line(name="all", count=count, work_us=work_us, wait_us=wait_us)]:
        share = (line.work_us + line.wait_us) / (work_us + wait_us)
        each = [f"{time_us / num_tokens:.2f}" for time_us in (line.work_us, line.wait_us)]
        table.add_row(line.name, str(line.count), *each, f"{share:.1%}")
    Console(width=120).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument(
        "--quantile", type=float, default=0.0, help="0 is the least of all passes, 0.5 the middle"
    )
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    with Engine.open(args.model, num_threads=args.threads) as engine:
        found = timed(engine, num_tokens=args.tokens, rounds=args.rounds, passes=args.passes)
        made = lines(names_of(engine), found, quantile=args.quantile)
    title = f"{args.model}, {args.tokens} tokens, {args.threads} threads, µs a token"
    show(title, made, num_tokens=args.tokens)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(line) for line in made], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
