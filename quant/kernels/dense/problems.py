"""Matrices and tokens for dense products."""

import numpy as np

from quant.kernels.dense.calls import dense_call
from quant.kernels.elementary.problems import problem_of
from quant.kernels.norm.problems import hard_tokens
from quant.kernels.operation import Case, Problem


def dense_problem(case: Case, rng: np.random.Generator) -> Problem:
    """Some of the tokens are hard. An even number of rows has biases."""
    x = hard_tokens(case.tokens, case.inputs, rng)
    weight = rng.standard_normal((case.rows, case.inputs + 3), dtype=np.float32)[:, : case.inputs]
    if case.rows % 2 == 0:
        bias = rng.standard_normal(case.rows, dtype=np.float32)
        return problem_of(dense_call(x, weight, bias), x, weight, bias)
    return problem_of(dense_call(x, weight), x, weight)
