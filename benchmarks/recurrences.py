"""Steps of the recurrent mixers on this machine, beside torch's.

    python -m benchmarks.recurrences [--only steps,inputs] [--quick] [--no-peers] [--json FILE]

One thread. Each side of ours passes its correctness gate first; torch has the bare recurrence, without gates
and norms. Times of steps are for one head and one token.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Report, Side, kernel_side, run_parts
from quant.kernels.convolution.calls import convolution_call
from quant.kernels.delta.calls import delta_call
from quant.kernels.dense.calls import dense_call
from quant.kernels.elementary.calls import VectorCall
from quant.kernels.mlstm.calls import mlstm_call
from quant.kernels.operation import Case
from quant.kernels.table import OPERATIONS

HEADS, SIZE = 40, 64
CHANNELS = 3 * HEADS * SIZE
WIDTH = HEADS * SIZE
TARGET_US = 1.5
"""For a step of one head of the delta rule, at any number of tokens."""

CALLS: dict[str, Callable[..., VectorCall]] = {
    "gated_delta": delta_call,
    "exact_flow": delta_call,
    "mlstm": mlstm_call,
    "dense": dense_call,
    "short_convolution": convolution_call,
}


def ours(name: str, case: Case, *, per: float = 1.0) -> Side:
    """An operation on its own problem by the kernel that this machine would take."""
    problem = OPERATIONS[name].problem(case, np.random.default_rng(0))
    # The problem puts its state back before each run; here the state goes on.
    return kernel_side(name, CALLS[name](*problem.inputs), problem, per=per)


def steps(report: Report, *, turns: int, peers: bool) -> None:
    """All heads of a layer of the published size."""
    for num_tokens in (1, 16, 64):
        case = Case(rows=HEADS, inputs=SIZE, tokens=num_tokens)
        sides = [ours(name, case, per=HEADS * num_tokens) for name in ("gated_delta", "exact_flow", "mlstm")]
        if peers and num_tokens == 1:
            sides.append(by_torch())
        rows = report.measure(f"{HEADS} heads of {SIZE}, {num_tokens} tokens", sides, turns=turns)
        for row in rows:
            if row.name in ("gated_delta", "exact_flow"):
                text = f"{row.name}, {num_tokens} tokens: parts of {TARGET_US} µs a step"
                report.compare(text, found=TARGET_US / row.us, target=1.0)


def by_torch() -> Side:
    import torch

    from chimera.mixers.gated_delta.step import gated_delta_step

    torch.set_num_threads(1)
    q, k, v = torch.randn(3, 1, HEADS, SIZE)
    gates = torch.rand(3, 1, HEADS)
    memory = torch.randn(1, HEADS, SIZE, SIZE)

    def run() -> None:
        with torch.no_grad():
            gated_delta_step(
                q, k, v, log_decay_BH=-gates[0], erase_BH=gates[1], write_BH=gates[2], state_BHKV=memory
            )

    return Side(name="torch gated_delta_step", run=run, per=HEADS)


def inputs(report: Report, *, turns: int, peers: bool) -> None:
    """What goes before a step: the gates' products and the convolution of query, key and value."""
    for num_tokens in (1, 16):
        sides = [
            ours("dense", Case(rows=2 * HEADS, inputs=WIDTH, tokens=num_tokens), per=num_tokens),
            ours("short_convolution", Case(rows=4, inputs=CHANNELS, tokens=num_tokens), per=num_tokens),
        ]
        if peers:
            sides.append(by_numpy(num_tokens))
        report.measure(f"width {WIDTH}, {num_tokens} tokens, µs a token", sides, turns=turns)


def by_numpy(num_tokens: int) -> Side:
    """The same product by NumPy's library, in whatever order it takes."""
    rng = np.random.default_rng(0)
    weight: NDArray[np.float32] = rng.standard_normal((2 * HEADS, WIDTH), dtype=np.float32)
    x: NDArray[np.float32] = rng.standard_normal((num_tokens, WIDTH), dtype=np.float32)
    return Side(name="numpy x @ W.T", run=lambda: x @ weight.T, per=num_tokens)


PARTS = {"steps": steps, "inputs": inputs}


if __name__ == "__main__":
    run_parts("Measure the steps of the recurrent mixers.", PARTS)
