"""Tokens for the operations that norm, gate or quantise."""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary.problems import problem_of
from quant.kernels.norm.calls import quantize_call, rms_norm_call, rms_norm_quantize_call
from quant.kernels.operation import Case, Problem

EPS = np.float32(1e-6)


def hard_tokens(num_tokens: int, num_inputs: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Tokens of very different sizes in rows that lie apart. From the second on every second one is hard."""
    apart = np.full((num_tokens, num_inputs + 5), np.nan, dtype=np.float32)
    x = apart[:, :num_inputs]
    x[...] = rng.standard_normal((num_tokens, num_inputs), dtype=np.float32)
    x *= np.ldexp(np.float32(1), rng.integers(-12, 12, (num_tokens, 1)))
    place = int(rng.integers(0, num_inputs))
    for token in range(1, num_tokens, 2):
        row = x[token]
        match token // 2 % 8:
            case 0:
                row[...] = 0
            case 1:
                row[...] = np.copysign(np.float32(0), row)
            case 2:  # squares overflow
                row *= np.float32(1e30)
            case 3:  # squares vanish, and so does 1e-5
                row *= np.float32(1e-30)
            case 4:  # subnormals
                row[...] = np.copysign(np.float32(1e-42), row)
            case 5:
                row[place] = np.nan
            case 6:
                row[place] = -np.inf
            case _:
                row[...] = np.copysign(np.float32(3), row)
    return x


def gains(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return (1 + rng.standard_normal(size) / 4).astype(np.float32)


def quantize_problem(case: Case, rng: np.random.Generator) -> Problem:
    x = hard_tokens(case.tokens, case.inputs, rng)
    return problem_of(quantize_call(x), x)


def rms_norm_problem(case: Case, rng: np.random.Generator) -> Problem:
    """The case's rows are heads and its inputs a head's; gains are of one head or of all of them."""
    x = hard_tokens(case.tokens, case.rows * case.inputs, rng)
    gain = gains(case.inputs * int(rng.choice([1, case.rows])), rng)
    return problem_of(rms_norm_call(x, gain, eps=EPS, num_heads=case.rows), x, gain, EPS, case.rows)


def rms_norm_quantize_problem(case: Case, rng: np.random.Generator) -> Problem:
    x, gain = hard_tokens(case.tokens, case.inputs, rng), gains(case.inputs, rng)
    return problem_of(rms_norm_quantize_call(x, gain, eps=EPS), x, gain, EPS)
