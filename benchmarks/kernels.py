"""Matrix kernels on this machine, beside what the machine can do at best and beside others.

    python -m benchmarks.kernels [--only dram,cache,tokens,head] [--threads 1,2] [--forms avx2] [--quick]
                                 [--prototype FOLDER] [--no-peers] [--json FILE]

Everything is measured in one run, in turns, after its results were found right. Our kernels run on the
engine's own pool of threads, which meet after each product as they do in a model. Targets stand beside what
was found; a miss is not an error.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import ceilings
from benchmarks.crew import Crew
from benchmarks.harness import Report, Row, Side, gate, machine
from benchmarks.peers import PEERS, too_far
from benchmarks.prototype import SOME_TOKENS, Prototype
from benchmarks.rounding import FUSED, SEPARATE
from quant import cpu
from quant.activations import QuantizedActivations, quantize_activations
from quant.compiling import on_compile
from quant.cpu import Form
from quant.embedding import RowBits, RowWeights, rows_matmul
from quant.kernels import arguments
from quant.kernels.calls import Call, rows_call, ternary_call
from quant.kernels.operation import Kernel, difference
from quant.kernels.table import OPERATIONS
from quant.packing import PackedTernary, pack_rows, pack_ternary
from quant.ternary import TernaryWeights, dequantize_ternary, quantize_ternary, ternary_matmul
from runtime.measuring.machine_kernels import read_memory
from runtime.measuring.machine_places import PIECE_BYTES, RESULT_BYTES

MIB = 1 << 20
SHAPE = (2560, 2560)
SHAPES = ((2560, 2560), (6912, 2560), (2560, 6912), (1728, 2560), (384, 384))
REST_BYTES = 256 * MIB
CACHE_BYTES = 8 * MIB
HEAD = (32768, 2560)
PRODUCT = OPERATIONS["ternary_matmul"].forms


class Bench:
    """What the parts of this benchmark share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rng = np.random.default_rng(0)
        self.turns = 5 if options.quick else 15
        self.crews = [Crew(int(count)) for count in options.threads.split(",")]
        allowed = cpu.allowed_forms()
        self.forms: list[Form] = [form for form in allowed if form in options.forms.split(",")]
        self.best = self.forms[0]
        self.report = Report(machine=machine())
        self.prototype: dict[Form, Prototype] = {}
        if options.prototype is not None:
            known: list[Form] = [form for form in self.forms if form in SOME_TOKENS]
            self.prototype = {form: Prototype(options.prototype, form=form) for form in known}

    def matrix(self, rows: int, inputs: int) -> tuple[TernaryWeights, PackedTernary]:
        weights = quantize_ternary(self.rng.standard_normal((rows, inputs), dtype=np.float32))
        return weights, pack_ternary(weights)

    def tokens(self, count: int, inputs: int) -> tuple[NDArray[np.float32], QuantizedActivations]:
        x_TK = self.rng.standard_normal((count, inputs), dtype=np.float32)
        return x_TK, quantize_activations(x_TK)


def read_side(crew: Crew, memory: NDArray[np.uint8], *, times: int, name: str) -> Side:
    pieces = memory.size // PIECE_BYTES
    seen = np.zeros(pieces * RESULT_BYTES, dtype=np.uint8)
    arguments = np.tile(np.array([memory.ctypes.data, seen.ctypes.data], dtype=np.int64), (times, 1))
    job = crew.job(read_memory, arguments, units=pieces)

    def run(_alive: object = (memory, seen)) -> None:
        job()

    return Side(name=name, run=run, num_bytes=float(pieces * PIECE_BYTES * times), per=times)


def rotation(call: Call, packed: PackedTernary) -> tuple[NDArray[np.int64], NDArray[np.uint8], int]:
    """Tables of copies of one product that lie in memory one after another, more than any cache holds."""
    one = packed.codes.nbytes + packed.scales.nbytes
    count = REST_BYTES // one
    memory = np.empty(count * one, dtype=np.uint8)
    tables = np.tile(call.table, (count, 1))
    for number in range(count):
        place = memory[number * one : (number + 1) * one]
        place[: packed.codes.nbytes] = packed.codes.reshape(-1)
        place[packed.codes.nbytes :] = packed.scales.reshape(-1).view(np.uint8)
        tables[number, arguments.CODES] = place.ctypes.data
        tables[number, arguments.SCALES] = place.ctypes.data + packed.codes.nbytes
    return tables, memory, count


def from_memory(bench: Bench) -> None:
    """One token, weights from DRAM: how near the read ceiling is."""
    weights, packed = bench.matrix(*SHAPE)
    _, acts = bench.tokens(1, SHAPE[1])
    call = ternary_call(packed, acts)
    tables, memory, count = rotation(call, packed)
    small = memory[:CACHE_BYTES]
    for crew in bench.crews:
        sides = [
            read_side(crew, memory, times=1, name="DRAM read with prefetch"),
            read_side(crew, small, times=20, name="L3 read with prefetch"),
        ]
        for form in bench.forms:
            kernel = PRODUCT[form]
            call.y[...] = np.nan
            crew.job(kernel, tables[-1], units=call.units)()
            gate(form, difference((call.y,), (ternary_matmul(weights, acts),)))
            run = crew.job(kernel, tables, units=call.units)
            sides.append(Side(name=form, run=run, per=count, num_bytes=float(memory.size)))
        part = f"2560 × 2560, one token, from {REST_BYTES // MIB} MiB, {crew.size}"
        rows = bench.report.measure(part, sides, turns=bench.turns)
        share = rows[2].gb_s / rows[0].gb_s
        text = f"{rows[2].name}, {crew.size}: share of the DRAM read ceiling"
        bench.report.compare(text, found=share, target=0.80)


def in_cache(bench: Bench) -> None:
    """One token, weights in the cache: beside the others, the sketch, and fused rounding."""
    times = 100
    for rows, inputs in SHAPES[:1] if bench.options.quick else SHAPES:
        weights, packed = bench.matrix(rows, inputs)
        x_TK, acts = bench.tokens(1, inputs)
        call = ternary_call(packed, acts)
        tables = np.tile(call.table, (times, 1))
        expected = (ternary_matmul(weights, acts),)
        for crew in bench.crews:
            sides: list[Side] = []
            for form in bench.forms:
                sides.append(_chain_side(call, tables, crew, PRODUCT[form], name=form))
                gate(form, difference((call.y[:, :rows],), expected))
                if crew.num_threads == 1 and form in FUSED:
                    sides.append(_chain_side(call, tables, crew, SEPARATE[form], name=f"{form}, separate"))
                    gate(sides[-1].name, difference((call.y[:, :rows],), expected))
                    sides.append(_chain_side(call, tables, crew, FUSED[form], name=f"{form}, fused"))
                    gate(sides[-1].name, too_far(call.y[:, :rows], expected[0]))
                if crew.num_threads == 1 and form in bench.prototype:
                    run, y = bench.prototype[form].product(packed, acts)
                    sides.append(Side(name=f"{form}, prototype", run=run, num_bytes=_bytes(packed)))
                    run()
                    gate(sides[-1].name, too_far(y[:, :rows], expected[0]))
            if (rows, inputs) == SHAPE and not bench.options.no_peers:
                sides += _peers(weights, x_TK, num_threads=crew.num_threads)
            part = f"{rows} × {inputs}, one token, in the cache, {crew.size}"
            found = bench.report.measure(part, sides, turns=bench.turns)
            if (rows, inputs) == SHAPE:
                _compare_in_cache(bench.report, found)


def _chain_side(call: Call, tables: NDArray[np.int64], crew: Crew, kernel: Kernel, *, name: str) -> Side:
    run = crew.job(kernel, tables, units=call.units)
    call.y[...] = np.nan
    run()
    num_bytes = float(sum(array.nbytes for array in call.held[:2]) * len(tables))
    return Side(name=name, run=run, per=len(tables), num_bytes=num_bytes)


def _bytes(packed: PackedTernary) -> float:
    return float(packed.codes.nbytes + packed.scales.nbytes)


def _peers(weights: TernaryWeights, x_TK: NDArray[np.float32], *, num_threads: int) -> list[Side]:
    sides: list[Side] = []
    expected = x_TK @ dequantize_ternary(weights).T
    for name, make in PEERS.items():
        run = make(weights, x_TK, num_threads=num_threads)
        gate(name, too_far(run(), expected))
        sides.append(Side(name=name, run=run))
    return sides


def _compare_in_cache(report: Report, rows: list[Row]) -> None:
    times = {row.name: row.us for row in rows}
    ours = rows[0]
    text = f"{ours.part}: {ours.name}"
    if "onnxruntime 2-bit" in times:
        found = times["onnxruntime 2-bit"] / ours.us
        report.compare(f"{text}: times as fast as onnxruntime", found=found, target=2.0)
    for form in cpu.FORMS:
        if f"{form}, prototype" in times:
            found = times[f"{form}, prototype"] / times[form]
            report.compare(f"{form}: times as fast as the prototype", found=found, target=0.85)
        if f"{form}, fused" in times:
            found = times[f"{form}, fused"] / times[f"{form}, separate"]
            report.compare(f"{form}: speed of separate rounding beside fused", found=found, target=0.95)


def many_tokens(bench: Bench) -> None:
    """128 tokens: how near the peak of the dot-product instruction is."""
    rows, inputs, count = *SHAPE, 128
    weights, packed = bench.matrix(rows, inputs)
    x_TK, acts = bench.tokens(count, inputs)
    call = ternary_call(packed, acts)
    expected = (ternary_matmul(weights, acts),)
    macs = float(rows * inputs * count)
    for crew in bench.crews:
        sides: list[Side] = []
        for form in bench.forms:
            if form in ceilings.DOT_PRODUCTS:
                sides.append(_peak_side(crew, form))
            run = crew.job(PRODUCT[form], call.table, units=call.units)
            call.y[...] = np.nan
            run()
            gate(form, difference((call.y,), expected))
            sides.append(Side(name=form, run=run, per=count, macs=macs))
            if crew.num_threads == 1 and form in bench.prototype:
                run_prototype, y = bench.prototype[form].product(packed, acts)
                run_prototype()
                gate("prototype", too_far(y, expected[0]))
                sides.append(Side(name=f"{form}, prototype", run=run_prototype, per=count, macs=macs))
        if not bench.options.no_peers:
            peers = _peers(weights, x_TK, num_threads=crew.num_threads)
            sides += [Side(name=peer.name, run=peer.run, per=count, macs=macs) for peer in peers]
        part = f"2560 × 2560, {count} tokens, {crew.size}; µs for a token"
        found = {row.name: row for row in bench.report.measure(part, sides, turns=bench.turns)}
        for form in bench.forms:
            if f"{form}, peak" in found:
                share = found[form].gmac_s / found[f"{form}, peak"].gmac_s
                text = f"{form}, {count} tokens, {crew.size}: share of the instruction's peak"
                bench.report.compare(text, found=share, target=0.85)
            if f"{form}, prototype" in found:
                ratio = found[f"{form}, prototype"].us / found[form].us
                text = f"{form}, {count} tokens: times as fast as the prototype"
                bench.report.compare(text, found=ratio, target=0.85)


def _peak_side(crew: Crew, form: Form) -> Side:
    turns, sums = 100_000 * crew.num_threads, np.zeros(1024, dtype=np.uint8)
    job = crew.job(ceilings.DOT_PRODUCTS[form], np.array([sums.ctypes.data], dtype=np.int64), units=turns)

    def run(_alive: object = sums) -> None:
        job()

    return Side(name=f"{form}, peak", run=run, macs=float(ceilings.MACS_PER_TURN[form] * turns))


def head(bench: Bench) -> None:
    """One token times a vocabulary, from DRAM."""
    rows, inputs = HEAD
    _, acts = bench.tokens(1, inputs)
    widths: tuple[RowBits, ...] = (8, 4, 2)
    for bits in widths:
        limit = {8: 127, 4: 7, 2: 1}[bits]
        codes = bench.rng.integers(-limit, limit + 1, (rows, inputs), dtype=np.int8)
        table = RowWeights(codes=codes, scales=bench.rng.random(rows, dtype=np.float32), bits=bits)
        packed = pack_rows(table)
        call = rows_call(packed, acts)
        expected = (rows_matmul(table, acts),)
        memory = packed.codes.view(np.uint8).reshape(-1)
        for crew in bench.crews:
            sides = [read_side(crew, memory, times=1, name="DRAM read with prefetch")]
            for form in bench.forms:
                run = crew.job(OPERATIONS[f"int{bits}_matmul"].forms[form], call.table, units=call.units)
                call.y[...] = np.nan
                run()
                gate(form, difference((call.y,), expected))
                sides.append(Side(name=f"int{bits}, {form}", run=run, num_bytes=float(memory.size)))
            part = f"{rows} × {inputs} head of {bits} bits, {crew.size}"
            bench.report.measure(part, sides, turns=bench.turns)


PARTS = {"dram": from_memory, "cache": in_cache, "tokens": many_tokens, "head": head}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the matrix kernels on this machine.")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, by comma")
    parser.add_argument("--forms", default=",".join(cpu.allowed_forms()), help="forms, by comma")
    parser.add_argument("--quick", action="store_true", help="fewer turns and one shape")
    parser.add_argument("--no-peers", action="store_true", help="without onnxruntime and torch")
    parser.add_argument("--prototype", type=Path, help="folder of the older sketch, to measure it beside")
    parser.add_argument("--json", type=Path, help="write everything that was found to this file")
    options = parser.parse_args()
    bench = Bench(options)
    with on_compile(lambda name: print(f"compiling {name}", flush=True)):
        for part in options.only.split(","):
            PARTS[part](bench)
    for crew in bench.crews:
        bench.report.machine[crew.size] = crew.told
    bench.report.show(path=options.json)


if __name__ == "__main__":
    main()
