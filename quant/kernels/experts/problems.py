"""Logits and rows for the operations on experts."""

import numpy as np

from quant.kernels.elementary.problems import problem_of
from quant.kernels.experts.calls import choose_call, weigh_call
from quant.kernels.norm.problems import hard_tokens
from quant.kernels.operation import Case, Problem


def choose_problem(case: Case, rng: np.random.Generator) -> Problem:
    """The case's inputs are experts and its rows those chosen. Some logits are equal, some tokens hard."""
    logits = hard_tokens(case.tokens, case.inputs, rng)
    logits[::3] = np.rint(logits[::3])
    bias = np.rint(rng.standard_normal(case.inputs) * 2).astype(np.float32) / np.float32(64)
    is_softmax = bool(rng.integers(0, 2))
    num_chosen = min(case.rows, case.inputs)
    call = choose_call(logits, bias, num_chosen=num_chosen, is_softmax=is_softmax)
    return problem_of(call, logits, bias, num_chosen, is_softmax)


def weigh_problem(case: Case, rng: np.random.Generator) -> Problem:
    """The case's rows are experts a token. Some weights are zero, and some rows hard."""
    rows = hard_tokens(case.tokens * case.rows, case.inputs, rng)
    shared = hard_tokens(case.tokens, case.inputs, rng)[::-1]
    weights = rng.random((case.tokens, case.rows), dtype=np.float32)
    weights[rng.random(weights.shape) < 0.3] = 0
    places = rng.permutation(case.tokens * case.rows).reshape(case.tokens, case.rows)
    return problem_of(weigh_call(rows, shared, weights, places), rows, shared, weights, places)
