"""Tokens, gates and memories for the delta rule's step."""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.delta.calls import delta_call
from quant.kernels.delta.reference import DeltaTokens, DeltaWeights, decay_rates
from quant.kernels.norm.problems import EPS, gains
from quant.kernels.operation import Case, Kernel, Problem

Floats = NDArray[np.float32]


def delta_problem(case: Case, rng: np.random.Generator) -> Problem:
    """The case's rows are heads and its inputs a head's size. An odd number of heads has output gates."""
    width = case.rows * case.inputs
    tokens = DeltaTokens(
        q=vectors(case.tokens, width, rng),
        k=vectors(case.tokens, width, rng),
        v=vectors(case.tokens, width, rng),
        alpha=preactivations(case.tokens, case.rows, rng),
        beta=preactivations(case.tokens, case.rows, rng),
        gate=vectors(case.tokens, width, rng) if case.rows % 2 else None,
    )
    weights = DeltaWeights(
        rates=decay_rates(rng.uniform(-9, 2.8, case.rows).astype(np.float32)),
        dt_bias=rng.uniform(-7, -2, case.rows).astype(np.float32),
        gain=gains(case.inputs, rng),
        eps=EPS,
    )
    memory = rng.standard_normal((case.rows, case.inputs, case.inputs), dtype=np.float32)
    held = np.empty_like(memory)
    call = delta_call(tokens, weights, held)

    def run(kernel: Kernel, first: int, last: int) -> None:
        """A part of the work begins with the memory of its heads."""
        held[first:last] = memory[first:last]
        call.run(kernel, first, last)

    return Problem(run=run, units=call.units, outputs=call.outputs, inputs=(tokens, weights, memory))


def vectors(num_tokens: int, width: int, rng: np.random.Generator) -> Floats:
    """Finite rows that lie apart, of different sizes; some of zeros, of tiny numbers or of subnormals."""
    apart = np.full((num_tokens, width + 5), np.nan, dtype=np.float32)
    x = apart[:, :width]
    x[...] = rng.standard_normal((num_tokens, width), dtype=np.float32)
    x *= np.ldexp(np.float32(1), rng.integers(-3, 3, (num_tokens, 1)))
    for row, kind in zip(x, rng.integers(0, 12, num_tokens), strict=True):
        match kind:
            case 0:
                row[...] = np.copysign(np.float32(0), row)
            case 1:
                row *= np.float32(1e-30)
            case 2:
                row[...] = np.copysign(np.float32(1e-42), row)
            case _:
                pass
    return x


def preactivations(num_tokens: int, num_heads: int, rng: np.random.Generator) -> Floats:
    """Numbers before a gate's activation; some open it or close it to the last bit and beyond."""
    x = rng.standard_normal((num_tokens, num_heads), dtype=np.float32) * np.float32(3)
    extreme = rng.random(x.shape) < 0.1
    x[extreme] = rng.choice(np.array([-1e4, -90, -20, 20, 90, 1e4, 0, -0.0], dtype=np.float32), extreme.sum())
    return x
