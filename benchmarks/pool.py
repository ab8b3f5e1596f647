"""The pool of threads: what a job and a barrier cost, what threads bring, and what a taken core costs.

    python -m benchmarks.pool [--threads 2] [--seconds 3] [--quick] [--json FILE]

A chain is one job of many ternary products with a barrier after each. Everything is measured in one run and
in turns, after the results were found right. Beside a process that keeps a core busy, the turns are long
against the time slices of the system, and what is told is the time of all jobs of a side by their number.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Report, Side, gate, machine
from quant.activations import quantize_activations
from quant.indirect import call_kernel
from quant.jit import kernel
from quant.kernels.arguments import NUM_ARGUMENTS
from quant.kernels.calls import Call, ternary_call
from quant.kernels.operation import difference
from quant.native import address_of
from quant.packing import pack_ternary
from quant.pool import Pool
from quant.pool_barrier import barrier
from quant.pool_threads import default_threads
from quant.registers import i64
from quant.selfcheck import chosen
from quant.simd import load
from quant.ternary import quantize_ternary, ternary_matmul

NUM_BARRIERS = 1000
SHAPES = ((384, 384, 200), (2560, 2560, 20))  # rows, inputs, and how many products one job holds
REST_S = 0.01  # long enough that threads park
TURN_S = 0.3
ENOUGH, LONGEST_S = 100, 15.0


@kernel
def barriers(table: int, thread: int, num_threads: int, block: int) -> None:
    for _ in range(load(i64, table)):
        barrier(block, thread, num_threads)


@kernel
def products(table: int, thread: int, num_threads: int, block: int) -> None:
    """Each product is cut into as many parts as there are threads."""
    count, calls, units, matmul = (
        load(i64, table),
        load(i64, table + 8),
        load(i64, table + 16),
        load(i64, table + 24),
    )
    for i in range(count):
        first, last = units * thread // num_threads, units * (thread + 1) // num_threads
        call_kernel(matmul, calls + i * NUM_ARGUMENTS * 8, first, last)
        barrier(block, thread, num_threads)


class Chain:
    """A table for `products`: the same matrix again and again, and its result."""

    def __init__(self, *, rows: int, inputs: int, count: int) -> None:
        rng = np.random.default_rng(0)
        weights = quantize_ternary(rng.standard_normal((rows, inputs), dtype=np.float32))
        acts = quantize_activations(rng.standard_normal((1, inputs), dtype=np.float32))
        self.call: Call = ternary_call(pack_ternary(weights), acts)
        self.expected = ternary_matmul(weights, acts)
        self.calls = np.tile(self.call.table, (count, 1))
        matmul = address_of(chosen("ternary_matmul").kernel)
        self.table = np.array([count, self.calls.ctypes.data, self.call.units, matmul], dtype=np.int64)

    def run(self, pool: Pool) -> None:
        pool.run(self.table.ctypes.data)

    def check(self, pool: Pool) -> None:
        self.call.y.fill(np.nan)
        self.run(pool)
        rows = self.expected.shape[1]
        gate(f"a chain on {pool.num_threads} threads", difference((self.call.y[:, :rows],), (self.expected,)))


def costs(report: Report, *, num_threads: int, seconds: float) -> None:
    """An empty job, one after a rest, and barriers; only jobs that got all threads are counted."""
    none, many = np.zeros(1, dtype=np.int64), np.full(1, NUM_BARRIERS, dtype=np.int64)
    with Pool(barriers, num_threads=1) as alone, Pool(barriers, num_threads=num_threads) as pool:
        found = {
            "an empty job on one thread": times_of(alone, none.ctypes.data, seconds=seconds),
            "an empty job": times_of(pool, none.ctypes.data, seconds=seconds),
            "an empty job after a rest": times_of(pool, none.ctypes.data, seconds=seconds, rest_s=REST_S),
            "a barrier": times_of(pool, many.ctypes.data, seconds=seconds) / NUM_BARRIERS,
        }
    for name, times in found.items():
        spread = [f"{np.quantile(times, part):.2f}" for part in (0, 0.1, 0.5, 0.9)]
        report.machine[f"{name}, {num_threads} threads" if "one" not in name else name] = (
            f"{' / '.join(spread)} µs (lowest, a tenth, half, nine tenths of {times.size})"
        )
    # Other load makes a part of the jobs wait for a core; the better tenth shows the cost of the pool itself.
    waking = np.quantile(found["an empty job"], 0.1) - np.quantile(found["an empty job on one thread"], 0.1)
    report.compare("2 µs by the time that giving out a job takes", found=2 / float(waking), target=1)
    report.compare(
        "0.2 µs by the time of a barrier", found=0.2 / float(np.quantile(found["a barrier"], 0.1)), target=1
    )


def times_of(pool: Pool, table: int, *, seconds: float, rest_s: float = 0) -> NDArray[np.float64]:
    """Times in µs of jobs that all threads did; on a busy machine they are rare, and it may take longer."""
    times: list[float] = []
    begin = now = time.perf_counter()
    while now - begin < seconds or not times or (len(times) < ENOUGH and now - begin < LONGEST_S):
        if rest_s:
            time.sleep(rest_s)
        usable = pool.usable_threads
        start = time.perf_counter()
        pool.run(table)
        took = time.perf_counter() - start
        if usable == pool.num_threads:
            times.append(took * 1e6)
        now = time.perf_counter()
    return np.array(times)


def scaling(report: Report, chains: dict[str, Chain], pools: list[Pool], *, turns: int) -> None:
    for name, chain in chains.items():
        sides = [
            Side(
                name=f"{pool.num_threads} threads" if pool.num_threads > 1 else "1 thread",
                run=partial(chain.run, pool),
                per=float(chain.table[0]),
                num_bytes=float(chain.call.held[0].nbytes + chain.call.held[1].nbytes)
                * float(chain.table[0]),
            )
            for pool in pools
        ]
        rows = report.measure(f"chain of {name}, a product", sides, turns=turns)
        for row, pool in zip(rows[1:], pools[1:], strict=True):
            text = f"{pool.num_threads} threads against one, chain of {name}"
            report.compare(text, found=rows[0].us / row.us, target=0.8 * pool.num_threads)


def beside_load(report: Report, chains: dict[str, Chain], pools: list[Pool], *, seconds: float) -> None:
    """As many jobs as go in turns, with a process that never rests on the same cores."""
    for name, chain in chains.items():
        spent, jobs = [0.0] * len(pools), [0] * len(pools)
        with busy_process():
            for _ in range(max(1, round(seconds / TURN_S))):
                for side, pool in enumerate(pools):
                    start = now = time.perf_counter()
                    while now - start < TURN_S:
                        chain.run(pool)
                        jobs[side] += 1
                        now = time.perf_counter()
                    spent[side] += now - start
        each = [
            time_s / count / float(chain.table[0]) * 1e6 for time_s, count in zip(spent, jobs, strict=True)
        ]
        found = ", ".join(f"{pool.num_threads}: {us:.2f} µs" for pool, us in zip(pools, each, strict=True))
        report.machine[f"beside load, threads and a product of {name}"] = found
        report.compare(f"pool against one thread beside load, {name}", found=each[0] / each[-1], target=1)


@contextmanager
def busy_process() -> Generator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each side beside load")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    turns = 5 if options.quick else 15
    usual = default_threads()
    num_threads = max(2, options.threads or usual.count)
    report = Report(machine={**machine(), "threads": f"{usual.count}: {usual.reason}"})
    costs(report, num_threads=num_threads, seconds=0.3 if options.quick else 1)
    chains = {
        f"{rows}×{inputs}": Chain(rows=rows, inputs=inputs, count=count) for rows, inputs, count in SHAPES
    }
    with Pool(products, num_threads=1) as alone, Pool(products, num_threads=num_threads) as pool:
        for chain in chains.values():
            chain.check(alone)
            chain.check(pool)
        scaling(report, chains, [alone, pool], turns=turns)
        beside_load(report, chains, [alone, pool], seconds=options.seconds / (3 if options.quick else 1))
    report.show(path=options.json)


if __name__ == "__main__":
    main()
