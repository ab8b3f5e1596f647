"""Taps, tails and tokens for the short convolution."""

import numpy as np

from quant.kernels.convolution.calls import convolution_call
from quant.kernels.norm.problems import hard_tokens
from quant.kernels.operation import Case, Kernel, Problem


def convolution_problem(case: Case, rng: np.random.Generator) -> Problem:
    """The case's rows are taps and its inputs channels. Some of the tokens are hard."""
    x = hard_tokens(case.tokens, case.inputs, rng)
    weight = rng.standard_normal((case.rows, case.inputs), dtype=np.float32)
    tail = rng.standard_normal((case.rows - 1, case.inputs), dtype=np.float32)
    held = np.empty_like(tail)
    call = convolution_call(x, weight, held)

    def run(kernel: Kernel, first: int, last: int) -> None:
        """A part of the work begins with the tail of its channels."""
        held[:, first * 16 : last * 16] = tail[:, first * 16 : last * 16]
        call.run(kernel, first, last)

    return Problem(run=run, units=call.units, outputs=call.outputs, inputs=(x, weight, tail))
