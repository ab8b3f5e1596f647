"""Choice and weighted sum of experts on registers. The reference says what they compute."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.elementary.functions import canonical, exp, log, softplus
from quant.kernels.experts.places import (
    BIAS,
    CHOSEN,
    IS_SOFTMAX,
    LOG_SCORES,
    LOGITS,
    LOGITS_STRIDE,
    NUM_CHOSEN,
    NUM_EXPERTS,
    PAIR_PLACES,
    ROWS,
    ROWS_STRIDE,
    SCORES,
    SHARED,
    SHARED_STRIDE,
    WEIGHTS,
    WIDTH,
    Y_STRIDE,
    Y,
)
from quant.kernels.residual.parts import load_part, store_part
from quant.lanes import add_lanes, lane
from quant.registers import f32, f32x16, i64
from quant.simd import broadcast, equal, load, load_first, put, select, splat, store_first, zeros

LOWEST = float("-inf")


@helper
def top_of(row: int, count: int) -> Any:
    """The largest of a row that is no NaN, in all lanes."""
    top = lane(splat(f32x16, LOWEST), 0)
    for i in range(count):
        value = load(f32, row + i * 4)
        if value > top:
            top = value
    return splat(f32x16, top)


@helper
def share_row(target: int, row: int, top: Any, count: int) -> Any:
    """e^{x − top} of a row, and their sum in all lanes."""
    sums = zeros(f32x16)
    for i in range(0, count, 16):
        store_first(target + i * 4, exp(load_first(f32x16, row + i * 4, count - i) - top), count - i)
        sums = sums + load_first(f32x16, target + i * 4, count - i)
    return splat(f32x16, add_lanes(sums))


@helper
def score_row(arguments: int, logits: int, log_scores: int, scores: int) -> None:
    """Logarithms of a token's scores, and what they are chosen by."""
    count, bias = argument(arguments, NUM_EXPERTS), argument(arguments, BIAS)
    is_softmax = argument(arguments, IS_SOFTMAX) != 0
    top, log_sum = zeros(f32x16), zeros(f32x16)
    if is_softmax:
        top = top_of(logits, count)
        log_sum = log(share_row(scores, logits, top, count))
    for i in range(0, count, 16):
        at, left = i * 4, count - i
        logit = load_first(f32x16, logits + at, left)
        log_score = (logit - top) - log_sum if is_softmax else -softplus(-logit)
        store_first(log_scores + at, log_score, left)
        score = exp(log_score) + load_first(f32x16, bias + at, left)
        store_first(scores + at, select(equal(score, score), score, splat(f32x16, LOWEST)), left)


@helper
def take_best(scores: int, count: int) -> int:
    """The place of the largest, the lowest among equals; it is not found again."""
    best, top = 0, load(f32, scores)
    for i in range(1, count):
        score = load(f32, scores + i * 4)
        if score > top:
            best, top = i, score
    put(f32, scores + best * 4, LOWEST)
    return best


@kernel
def choose(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens."""
    count, num_chosen = argument(arguments, NUM_EXPERTS), argument(arguments, NUM_CHOSEN)
    for token in range(first, last):
        logits = argument(arguments, LOGITS) + token * argument(arguments, LOGITS_STRIDE)
        log_scores = argument(arguments, LOG_SCORES) + token * count * 4
        scores = argument(arguments, SCORES) + token * count * 4
        chosen = argument(arguments, CHOSEN) + token * num_chosen * 8
        weights = argument(arguments, WEIGHTS) + token * num_chosen * 4
        score_row(arguments, logits, log_scores, scores)
        for pick in range(num_chosen):
            expert = take_best(scores, count)
            put(i64, chosen + pick * 8, expert)
            put(f32, weights + pick * 4, load(f32, log_scores + expert * 4))
        total = share_row(weights, weights, top_of(weights, num_chosen), num_chosen)
        for i in range(0, num_chosen, 16):
            share = load_first(f32x16, weights + i * 4, num_chosen - i) / total
            store_first(weights + i * 4, canonical(share), num_chosen - i)


@kernel
def weigh(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens."""
    width, num_chosen = argument(arguments, WIDTH), argument(arguments, NUM_CHOSEN)
    rows, stride = argument(arguments, ROWS), argument(arguments, ROWS_STRIDE)
    for token in range(first, last):
        places = argument(arguments, PAIR_PLACES) + token * num_chosen * 8
        weights = argument(arguments, WEIGHTS) + token * num_chosen * 4
        shared = argument(arguments, SHARED) + token * argument(arguments, SHARED_STRIDE)
        y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE)
        for i in range(0, width, 16):
            at, left = i * 4, width - i
            total = zeros(f32x16)
            for pick in range(num_chosen):
                weight = broadcast(f32x16, weights + pick * 4)
                part = load_part(rows + load(i64, places + pick * 8) * stride + at, left) * weight
                total = total + select(equal(weight, zeros(f32x16)), zeros(f32x16), part)
            store_part(y + at, canonical(load_part(shared + at, left) + total), left)
