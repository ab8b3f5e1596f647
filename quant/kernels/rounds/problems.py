"""Rows for the operations on rounds."""

import numpy as np

from quant.kernels.elementary.problems import problem_of
from quant.kernels.norm.problems import gains, hard_tokens
from quant.kernels.operation import Case, Kernel, Problem
from quant.kernels.rounds.calls import keep_rounds_call, mix_rounds_call, scale_rows_call


def scale_rows_problem(case: Case, rng: np.random.Generator) -> Problem:
    x, first = hard_tokens(case.tokens, case.inputs, rng), gains(case.inputs, rng)
    if rng.integers(0, 2):
        return problem_of(scale_rows_call(x, first), x, first)
    second = gains(case.inputs, rng)
    return problem_of(scale_rows_call(x, first, second), x, first, second)


def mix_rounds_problem(case: Case, rng: np.random.Generator) -> Problem:
    """Some of the tokens are in the loop. In the first round what is held is of no meaning."""
    held, fed = (hard_tokens(case.tokens, case.inputs, rng) for _ in range(2))
    decay, active, number = gains(case.inputs, rng), _some(case.tokens, rng), int(rng.integers(0, 3))
    call = mix_rounds_call(held, fed, decay, active, round_number=number)
    return problem_of(call, held, fed, decay, active, number)


def keep_rounds_problem(case: Case, rng: np.random.Generator) -> Problem:
    """Some tokens hardly change, and their thresholds lie among the changes or are none."""
    held, active, number = (
        hard_tokens(case.tokens, case.inputs, rng),
        _some(case.tokens, rng),
        int(rng.integers(0, 3)),
    )
    mixed, addend = hard_tokens(active.size, case.inputs, rng), hard_tokens(active.size, case.inputs, rng)
    still = rng.random(active.size) < 0.5
    mixed[still], addend[still] = held[active][still], 0.01 * held[active][still]
    thresholds = rng.choice(np.array([0.0, 0.0099, 0.5], dtype=np.float32), case.tokens)
    now = np.empty_like(held)
    call = keep_rounds_call(now, mixed, addend, active, round_number=number, thresholds=thresholds)
    stays, taken = call.outputs[1:]

    def run(kernel: Kernel, first: int, last: int) -> None:
        """The first part of the work finds what was held; no part sees what another one writes."""
        if first == 0:
            now[...], taken[...] = held, 0
        call.run(kernel, first, last)

    inputs = (held, mixed, addend, active, number, thresholds)
    return Problem(run=run, units=call.units, outputs=(now, stays, taken), inputs=inputs)


def _some(num_tokens: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Rising numbers of some tokens, of one at least."""
    active = np.flatnonzero(rng.random(num_tokens) < 0.7)
    return active if active.size else np.array([num_tokens - 1])
