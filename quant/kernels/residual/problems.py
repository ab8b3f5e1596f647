"""Tokens for the operations on the residual stream."""

import numpy as np

from quant.kernels.elementary.problems import problem_of
from quant.kernels.norm.problems import EPS, gains, hard_tokens
from quant.kernels.operation import Case, Problem
from quant.kernels.residual.calls import add_norm_both_call, add_rows_call, norm_both_call


def add_rows_problem(case: Case, rng: np.random.Generator) -> Problem:
    x, y = (hard_tokens(case.tokens, case.inputs, rng) for _ in range(2))
    return problem_of(add_rows_call(x, y[::-1]), x, y[::-1])


def norm_both_problem(case: Case, rng: np.random.Generator) -> Problem:
    x, gain = hard_tokens(case.tokens, case.inputs, rng), gains(case.inputs, rng)
    return problem_of(norm_both_call(x, gain, eps=EPS), x, gain, EPS)


def add_norm_both_problem(case: Case, rng: np.random.Generator) -> Problem:
    x, y = (hard_tokens(case.tokens, case.inputs, rng) for _ in range(2))
    gain = gains(case.inputs, rng)
    return problem_of(add_norm_both_call(x, y[::-1], gain, eps=EPS), x, y[::-1], gain, EPS)
