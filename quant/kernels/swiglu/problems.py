"""Gates and values for SwiGLU."""

import numpy as np

from quant.kernels.elementary.problems import problem_of
from quant.kernels.norm.problems import EPS, gains, hard_tokens
from quant.kernels.operation import Case, Problem
from quant.kernels.swiglu.calls import swiglu_call, swiglu_norm_quantize_call, swiglu_quantize_call


def swiglu_problem(case: Case, rng: np.random.Generator) -> Problem:
    gate, up = (hard_tokens(case.tokens, case.inputs, rng) for _ in range(2))
    return problem_of(swiglu_call(gate, up[::-1]), gate, up[::-1])


def swiglu_quantize_problem(case: Case, rng: np.random.Generator) -> Problem:
    gate, up = (hard_tokens(case.tokens, case.inputs, rng) for _ in range(2))
    return problem_of(swiglu_quantize_call(gate, up[::-1]), gate, up[::-1])


def swiglu_norm_quantize_problem(case: Case, rng: np.random.Generator) -> Problem:
    gate, up = (hard_tokens(case.tokens, case.inputs, rng) for _ in range(2))
    gain = gains(case.inputs, rng)
    call = swiglu_norm_quantize_call(gate, up[::-1], gain, eps=EPS)
    return problem_of(call, gate, up[::-1], gain, EPS)
