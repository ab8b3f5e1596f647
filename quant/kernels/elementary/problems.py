"""Inputs for the elementary functions, as tests, benchmarks and the self-check give them."""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary.calls import VectorCall, elementwise_call, rotation_call
from quant.kernels.operation import Case, Problem

# Zeros, infinities, NaNs of either sign, the smallest and largest numbers; where exp leaves the normal and
# the finite numbers; where tanh changes its form; around one and √½, where log does.
BORDERS = (
    *(
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        -np.nan,
        1.0,
        -1.0,
        2.0,
        0.5,
        0.625,
        -0.625,
        0.70710677,
        0.70710683,
    ),
    *(1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38, 3.4028235e38, -3.4028235e38, 88.72283, 88.72284, 89.0),
    *(-87.33654, -87.33655, -103.97207, -103.97208, -104.0, -110.0, -125.0, -125.5, 16.635532, -16.635532),
)


def function_problem(case: Case, rng: np.random.Generator) -> Problem:
    """As many numbers as the case has inputs: borders, any bits, and what is common."""
    borders = np.array(BORDERS, dtype=np.float32)
    any_bits = rng.integers(0, 2**32, case.inputs, dtype=np.uint64).astype(np.uint32).view(np.float32)
    common = rng.uniform(-110, 110, case.inputs).astype(np.float32)
    kinds = rng.integers(0, 3, case.inputs)
    x = np.choose(kinds, [rng.choice(borders, case.inputs), any_bits, common])
    return problem_of(elementwise_call(x), x)


def rotation_problem(case: Case, rng: np.random.Generator) -> Problem:
    """As many steps as the case has inputs, at positions that let the product pass 2^64 often."""
    steps = rng.integers(-(2**63), 2**63 - 1, case.inputs, dtype=np.int64)
    steps[: case.inputs // 2] >>= rng.integers(0, 63, case.inputs // 2)
    first = int(rng.integers(0, 2**40))
    call = rotation_call(steps, first_position=first, num_tokens=case.tokens)
    return problem_of(call, first, steps, case.tokens)


def problem_of(call: VectorCall, *inputs: NDArray[np.generic] | np.generic | int) -> Problem:
    return Problem(run=call.run, units=call.units, outputs=call.outputs, inputs=inputs)
