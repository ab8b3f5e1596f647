"""Norms, gates and elementary functions on this machine, beside plain NumPy and torch.

    python -m benchmarks.elementwise [--only functions,norms] [--quick] [--no-peers] [--json FILE]

One thread, data in the cache. Each side passes its correctness gate first; the peers need not give our bits.
Targets are those of a CPU with AVX-512; elsewhere the times stand without them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Report, Side, gate, kernel_side, run_parts
from quant import cpu
from quant.kernels.elementary.calls import VectorCall, elementwise_call, rotation_call
from quant.kernels.norm.calls import quantize_call, rms_norm_call, rms_norm_quantize_call
from quant.kernels.operation import Problem
from quant.kernels.swiglu.calls import swiglu_call, swiglu_norm_quantize_call, swiglu_quantize_call
from quant.kernels.table import OPERATIONS

EPS = np.float32(1e-6)
WIDTH, INNER = 2560, 6912
Floats = NDArray[np.float32]

TARGETS_US = {"rms_norm_quantize": 2.2, "swiglu_quantize": 4.1}
"""What the older sketch needed, with AVX-512 and fused, looser arithmetic."""


def ours(name: str, call: VectorCall, *inputs: object) -> Side:
    """An operation by the kernel that this machine would take."""
    problem = Problem(run=call.run, units=call.units, outputs=call.outputs, inputs=inputs)
    return kernel_side(name, call, problem)


def functions(report: Report, *, turns: int, peers: bool) -> None:
    """Each function over as many numbers as the inner layer has."""
    x = np.random.default_rng(0).standard_normal(INNER, dtype=np.float32) * np.float32(4)
    sides: list[Side] = []
    for name in ("exp", "log", "sigmoid", "softplus", "silu", "tanh"):
        values = np.abs(x) if name == "log" else x
        sides.append(ours(name, elementwise_call(values), values))
        if peers and name in ("exp", "log", "tanh"):
            by_numpy: Callable[..., Floats] = getattr(np, name)
            out = np.empty_like(values)
            sides.append(Side(name=f"numpy.{name}", run=lambda f=by_numpy, v=values, out=out: f(v, out=out)))
    report.measure(f"{INNER} numbers", sides, turns=turns)
    steps = np.random.default_rng(1).integers(0, 2**62, 32)
    call = rotation_call(steps, first_position=1000, num_tokens=1)
    report.measure("angles of a head of 64", [ours("rotation_angles", call, 1000, steps, 1)], turns=turns)


def norms(report: Report, *, turns: int, peers: bool) -> None:
    """What stands between two products, for one token."""
    rng = np.random.default_rng(2)
    for size in (WIDTH, INNER, 384):
        gate_values, up = rng.standard_normal((2, 1, size), dtype=np.float32)
        gain = rng.standard_normal(size, dtype=np.float32)
        sides = [
            ours("quantize_blocks", quantize_call(up), up),
            ours("rms_norm", rms_norm_call(up, gain, eps=EPS), up, gain, EPS),
            ours("rms_norm_quantize", rms_norm_quantize_call(up, gain, eps=EPS), up, gain, EPS),
            ours("swiglu", swiglu_call(gate_values, up), gate_values, up),
            ours("swiglu_quantize", swiglu_quantize_call(gate_values, up), gate_values, up),
            ours(
                "swiglu_norm_quantize",
                swiglu_norm_quantize_call(gate_values, up, gain, eps=EPS),
                *(gate_values, up, gain, EPS),
            ),
        ]
        if peers:
            sides += by_torch(gate_values, up, gain)
        rows = report.measure(f"{size} inputs, one token", sides, turns=turns)
        if cpu.target().allows("avx512vnni"):
            measured = {"rms_norm_quantize": WIDTH, "swiglu_quantize": INNER}
            for row in rows:
                if measured.get(row.name) == size:
                    text = f"{row.name}, {size} inputs: times as fast as the sketch"
                    report.compare(text, found=TARGETS_US[row.name] / row.us, target=1.0)


def by_torch(gate_values: Floats, up: Floats, gain: Floats) -> list[Side]:
    """The float parts, which are all that it has in one call or two."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    g, u, w = (torch.from_numpy(array) for array in (gate_values, up, gain))
    norm = F.rms_norm(u, (u.shape[1],), w, eps=float(EPS)).numpy()
    gate("torch", "" if np.allclose(norm, _norm(up, gain), rtol=1e-5, atol=1e-6) else "its norm differs")
    return [
        Side(name="torch rms_norm", run=lambda: F.rms_norm(u, (u.shape[1],), w, eps=float(EPS))),
        Side(name="torch silu · up", run=lambda: F.silu(g).mul_(u)),
    ]


def _norm(x: Floats, gain: Floats) -> Floats:
    call = rms_norm_call(x, gain, eps=EPS)
    call.run(OPERATIONS["rms_norm"].forms["plain"], 0, call.units)
    return call.outputs[0]


PARTS = {"functions": functions, "norms": norms}


if __name__ == "__main__":
    run_parts("Measure norms, gates and elementary functions.", PARTS)
