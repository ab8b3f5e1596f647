"""Scores as tests, benchmarks and the self-check give them to the operations on a vocabulary."""

import numpy as np

from quant.kernels.elementary.problems import problem_of
from quant.kernels.operation import Case, Problem
from quant.kernels.vocabulary.calls import weights_call

ODD_SCORES = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4028235e38, -3.4028235e38)


def weights_problem(case: Case, rng: np.random.Generator) -> Problem:
    """As many scores as the case has inputs, some of them odd, and a best that is not always the highest."""
    scores = (8 * rng.standard_normal(case.inputs)).astype(np.float32)
    odd = rng.random(case.inputs) < 0.1
    scores[odd] = rng.choice(np.array(ODD_SCORES, dtype=np.float32), int(odd.sum()))
    best = np.float32(rng.choice([scores[np.isfinite(scores)].max(initial=0.0), 0.0]))
    temperature = np.float32(rng.choice([0.01, 0.7, 1.0, 3.0]))
    call = weights_call(scores, best=best, temperature=temperature)
    return problem_of(call, scores, best, temperature)
