"""Every form and layout of the ternary product that this machine can run, side by side.

    python -m benchmarks.forms [--threads 1,2] [--tokens 1,16] [--shape 2560x2560] [--quick] [--json FILE]

From the caches, and from memory that no cache holds. All sides take turns in one run, after their bits were
found to be the reference's. The last lines are what `quant.choice` would choose, and why.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.crew import Crew
from benchmarks.harness import Report, Side, gate
from benchmarks.kernels import machine
from quant import choice, cpu
from quant.activations import quantize_activations
from quant.cpu import Form
from quant.kernels import places
from quant.kernels.calls import Call, laid_call
from quant.kernels.operation import Kernel, difference
from quant.kernels.table import OPERATIONS
from quant.layout_names import Layout
from quant.layouts import PRODUCTS, LaidTernary, laid_out
from quant.packing import pack_ternary
from quant.ternary import quantize_ternary, ternary_matmul
from runtime import system

MEMORY_BYTES = 128 << 20
CACHE_COPIES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A layout and one of its forms."""

    layout: Layout
    form: Form
    kernel: Kernel

    @property
    def name(self) -> str:
        return f"{self.layout}, {self.form}"


def candidates() -> Iterator[Candidate]:
    """All that the target allows; tiles first, and of each layout the best form first."""
    for layout, operation in PRODUCTS.items():
        for form, kernel in OPERATIONS[operation].forms.items():
            if form in cpu.allowed_forms():
                yield Candidate(layout=layout, form=form, kernel=kernel)


def side(candidate: Candidate, call: Call, laid: LaidTernary, crew: Crew, *, copies: int) -> Side:
    """Products with copies of a matrix that lie one after another."""
    memory = np.tile(laid.codes.reshape(-1), (copies, 1))
    tables: NDArray[np.int64] = np.tile(call.table, (copies, 1))
    tables[:, places.CODES] = [copy.ctypes.data for copy in memory]
    job = crew.job(candidate.kernel, tables, units=call.units)

    def run(_alive: object = (memory, call)) -> None:
        job()

    num_tokens = call.y.shape[0]
    return Side(name=candidate.name, run=run, per=copies * num_tokens, num_bytes=float(memory.nbytes))


def measure(report: Report, crew: Crew, *, shape: tuple[int, int], num_tokens: int, turns: int) -> None:
    """All candidates from the caches and from memory."""
    draws = np.random.default_rng(0)
    weights = quantize_ternary(draws.standard_normal(shape, dtype=np.float32))
    acts = quantize_activations(draws.standard_normal((num_tokens, shape[1]), dtype=np.float32))
    packed, expected = pack_ternary(weights), ternary_matmul(weights, acts)
    for place in choice.PLACES:
        copies = CACHE_COPIES if place == "cache" else MEMORY_BYTES // packed.codes.nbytes
        sides: list[Side] = []
        for candidate in candidates():
            laid = laid_out(packed, layout=candidate.layout)
            call = laid_call(laid, acts)
            call.y[...] = np.nan
            call.run(candidate.kernel, 0, call.units)
            gate(candidate.name, difference((call.y[:, : shape[0]],), (expected,)))
            sides.append(side(candidate, call, laid, crew, copies=copies))
        part = f"{shape[0]} × {shape[1]}, {num_tokens} tokens, from {place}, {crew.size}; µs for a token"
        rows = report.measure(part, sides, turns=turns)
        for row in rows:
            report.compare(f"{part}: {row.name} beside {rows[0].name}", found=rows[0].us / row.us, target=1.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", default="1,16")
    parser.add_argument("--shape", default="2560x2560")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    rows, inputs = map(int, args.shape.split("x"))
    report = Report(machine=machine())
    for num_threads in map(int, args.threads.split(",")):
        crew = Crew(num_threads)
        for num_tokens in map(int, args.tokens.split(",")):
            measure(report, crew, shape=(rows, inputs), num_tokens=num_tokens, turns=5 if args.quick else 15)
    report.show(path=args.json)
    for place in choice.PLACES:
        for num_threads in map(int, args.threads.split(",")):
            best = choice.best_layout(place=place, num_threads=num_threads, cache_bytes=system.cache_bytes())
            print(f"{best.layout}: {best.reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
