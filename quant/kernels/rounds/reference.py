"""Rounds by NumPy, operation by operation as the kernels compute them. `chimera.looping` has the equations.

    decay = exp(−a Δ);  gain = (1 − decay)/a, or Δ with `euler`;  a = exp(A_log), Δ = softplus(dt_bias)

A token stays in the loop while ‖after − before‖ ≥ threshold · ‖after‖; the sums of squares run in 16 lanes.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.delta.reference import mean_decay
from quant.kernels.elementary.reference import Floats, canonical, exp, softplus
from quant.kernels.norm.reference import sum_of_squares


def decay_and_gain(A_log_D: Floats, dt_bias_D: Floats, *, exact: bool) -> tuple[Floats, Floats]:
    """What a round keeps of the last one, and the gain of its input before B."""
    with np.errstate(all="ignore"):
        rate_D, step_D = exp(A_log_D), softplus(dt_bias_D)
        x_D = step_D * rate_D
        decay_D = exp(-x_D)
        return decay_D, step_D * mean_decay(x_D) if exact else step_D


def scale_rows(x_TD: Floats, first_D: Floats, second_D: Floats | None = None) -> Floats:
    """A product with one diagonal, or with two after each other."""
    with np.errstate(all="ignore"):
        y_TD = x_TD * first_D
        return canonical(y_TD if second_D is None else y_TD * second_D)


def mix_rounds(
    held_TD: Floats, input_TD: Floats, decay_D: Floats, active: NDArray[np.int64], round_number: int
) -> Floats:
    """What the round reads, for the tokens in the loop. Before the first round nothing is held."""
    before_TD = held_TD[active] if round_number else np.zeros_like(held_TD[active])
    with np.errstate(all="ignore"):
        return canonical(decay_D * before_TD + input_TD[active])


def keep_rounds(
    held_TD: Floats,
    mixed_TD: Floats,
    addend_TD: Floats,
    active: NDArray[np.int64],
    round_number: int,
    thresholds_T: Floats,
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """What is held now, which of the tokens in the loop stay, and the rounds taken by all of them."""
    with np.errstate(all="ignore"):
        after_TD = canonical(mixed_TD + addend_TD)
        before_TD = held_TD[active] if round_number else np.zeros_like(after_TD)
        change_T = np.sqrt(sum_of_squares(after_TD - before_TD))
        threshold_T = thresholds_T[active]
        stays = (threshold_T == 0) | (change_T >= threshold_T * np.sqrt(sum_of_squares(after_TD)))
    now_TD, taken_T = held_TD.copy(), np.zeros(len(held_TD), dtype=np.int64)
    now_TD[active], taken_T[active] = after_TD, round_number + 1
    return now_TD, stays.astype(np.int64), taken_T
