"""Sherry's product beside that of free ternary weights of the same size, in turns.

    python -m benchmarks.sherry [--only cache,memory,prompt] [--quick] [--json FILE]

One thread. The kernels run as the engine calls them, from addresses. From memory means from copies that no
cache holds; what is read there is what a token of a large model reads.
"""

import numpy as np

from benchmarks.harness import Report, Row, Side, gate, run_parts
from quant import cpu
from quant.activations import quantize_activations
from quant.kernels import places
from quant.kernels.calls import Call, sherry_call, ternary_call
from quant.kernels.operation import difference
from quant.kernels.table import OPERATIONS
from quant.native import Kernel
from quant.packing import PackedTernary, pack_ternary
from quant.sherry import quantize_sherry
from quant.sherry_packing import PackedSherry, pack_sherry
from quant.ternary import quantize_ternary, ternary_matmul

SHAPE = (2560, 2560)
REST_BYTES = 256 * 2**20
TIMES = 20


def in_cache(report: Report, *, turns: int, peers: bool) -> None:
    """One token, weights in the cache."""
    _compare(report, "2560 × 2560, one token, in the cache", num_tokens=1, copies=1, turns=turns)


def from_memory(report: Report, *, turns: int, peers: bool) -> None:
    """One token, weights from memory."""
    _compare(report, "2560 × 2560, one token, from memory", num_tokens=1, copies=None, turns=turns)


def prompt(report: Report, *, turns: int, peers: bool) -> None:
    """128 tokens."""
    _compare(report, "2560 × 2560, 128 tokens", num_tokens=128, copies=1, turns=turns)


def _compare(report: Report, part: str, *, num_tokens: int, copies: int | None, turns: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(SHAPE, dtype=np.float32)
    acts = quantize_activations(rng.standard_normal((num_tokens, SHAPE[1]), dtype=np.float32))
    ternary, sherry = quantize_ternary(weight), quantize_sherry(weight)
    packed_ternary, packed_sherry = pack_ternary(ternary), pack_sherry(sherry)
    sides: list[Side] = []
    for name, weights, packed, call in (
        ("ternary", ternary, packed_ternary, ternary_call(packed_ternary, acts)),
        ("sherry", sherry, packed_sherry, sherry_call(packed_sherry, acts)),
    ):
        forms = OPERATIONS[f"{name}_matmul"].forms
        for form in (cpu.choose(forms).form, "plain"):
            call.y[...] = np.nan
            call.run(forms[form], 0, call.units)
            gate(f"{name} {form}", difference((call.y,), (ternary_matmul(weights, acts),)))
            sides.append(_side(f"{name}, {form}", forms[form], call, packed, copies=copies))
    rows = report.measure(part, sides, turns=turns)
    for place in (0, 1):
        report.compare(
            f"{part}: {rows[place].name} / {rows[place + 2].name}", found=_ratio(rows, place), target=1
        )


def _ratio(rows: list[Row], place: int) -> float:
    return rows[place].us_low / rows[place + 2].us_low


def _side(
    name: str, kernel: Kernel, call: Call, packed: PackedTernary | PackedSherry, *, copies: int | None
) -> Side:
    """A product over and over: of the same bytes, or of copies one behind the other."""
    one = packed.codes.nbytes + packed.scales.nbytes
    count = copies or REST_BYTES // one
    memory = np.empty(count * one, dtype=np.uint8)
    tables = np.tile(call.table, (count, 1))
    for number in range(count):
        place = memory[number * one : (number + 1) * one]
        place[: packed.codes.nbytes] = packed.codes.reshape(-1)
        place[packed.codes.nbytes :] = packed.scales.reshape(-1).view(np.uint8)
        tables[number, places.CODES] = place.ctypes.data
        tables[number, places.SCALES] = place.ctypes.data + packed.codes.nbytes
    addresses = [table.ctypes.data for table in tables]
    times = 1 if count > 1 or call.y.shape[0] > 1 else TIMES

    def run(_alive: object = (memory, tables, call)) -> None:
        for _ in range(times):
            for address in addresses:
                kernel(address, 0, call.units)

    macs = float(SHAPE[0] * SHAPE[1] * call.y.shape[0] * count * times)
    return Side(name=name, run=run, per=count * times, num_bytes=float(memory.size) * times, macs=macs)


PARTS = {"cache": in_cache, "memory": from_memory, "prompt": prompt}

if __name__ == "__main__":
    run_parts((__doc__ or "").splitlines()[0], PARTS)
