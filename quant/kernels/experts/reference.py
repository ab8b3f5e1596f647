"""Routing by NumPy, operation by operation as the kernels compute it. `chronos_moe.router` has the equations.

    log s = −softplus(−logit)        or with softmax: (logit − top) − log Σ e^{logit − top}
    chosen = the largest of e^{log s} + bias, the lower id first among equals; what is NaN comes last
    weight_j = e^{log s_j − top} / Σ e^{log s − top}        over the chosen
    y = shared + Σ weight_j · row_j                         the best first; a weight of zero adds nothing

Sums over experts run in 16 lanes, then join lanes 8 apart, 4, 2 and 1.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.dense.reference import sum_of_products
from quant.kernels.elementary.reference import Floats, canonical, exp, log, quotient, softplus

Integers = NDArray[np.int64]


def choose(logits_TE: Floats, bias_E: Floats, num_chosen: int, is_softmax: bool) -> tuple[Integers, Floats]:
    """The experts of each token and their weights, [tokens, chosen] each."""
    with np.errstate(all="ignore"):
        log_scores_TE = _log_softmax(logits_TE) if is_softmax else -softplus(-logits_TE)
        left_TE = exp(log_scores_TE) + bias_E
        left_TE = np.where(left_TE == left_TE, left_TE, np.float32(-np.inf))
        chosen_TA = np.empty((len(left_TE), num_chosen), dtype=np.int64)
        for pick in range(num_chosen):
            chosen_TA[:, pick] = left_TE.argmax(axis=1)
            np.put_along_axis(left_TE, chosen_TA[:, pick, None], np.float32(-np.inf), axis=1)
        log_scores_TA = np.take_along_axis(log_scores_TE, chosen_TA, axis=1)
        shares_TA = exp(log_scores_TA - _top(log_scores_TA))
        return chosen_TA, canonical(quotient(shares_TA, _sum(shares_TA)))


def sort_pairs(chosen_TA: Integers) -> tuple[Integers, Integers]:
    """The place of each pair [tokens, chosen], and the token at each place."""
    order_U = chosen_TA.reshape(-1).argsort(kind="stable")
    place_U = np.empty_like(order_U)
    place_U[order_U] = np.arange(order_U.size)
    return place_U.reshape(chosen_TA.shape), order_U // chosen_TA.shape[1]


def weigh(rows_UD: Floats, shared_TD: Floats, weights_TA: Floats, places_TA: Integers) -> Floats:
    """The sum of each token's experts, [tokens, width]."""
    with np.errstate(all="ignore"):
        total_TD = np.zeros_like(shared_TD)
        for pick in range(weights_TA.shape[1]):
            weight_T1 = weights_TA[:, pick, None]
            part_TD = rows_UD[places_TA[:, pick]] * weight_T1
            total_TD = total_TD + np.where(weight_T1 == np.float32(0), np.float32(0), part_TD)
        return canonical(shared_TD + total_TD)


def _log_softmax(logits_TE: Floats) -> Floats:
    below_TE = logits_TE - _top(logits_TE)
    return below_TE - log(_sum(exp(below_TE)))


def _top(x: Floats) -> Floats:
    """The largest of each row that is no NaN."""
    return np.where(x == x, x, np.float32(-np.inf)).max(axis=1, keepdims=True)


def _sum(x: Floats) -> Floats:
    return sum_of_products(x, np.ones_like(x))[:, None]
