"""Word of experts that are not needed yet, left where whoever reads them from a disk looks for it.

What a layer ahead needs, it needs for all tokens of the call, so their scores are joined: the largest counts.
Of tokens to come the last one knows most. Nothing that a model computes depends on any of it.
"""

from quant.jit import kernel
from quant.kernels.arguments import argument
from quant.kernels.experts.foresight_places import (
    CHOSEN,
    NEWS,
    NUM_CHOSEN,
    NUM_EXPERTS,
    NUM_NOW,
    NUM_TOKENS,
    PLACE,
    X_STRIDE,
    X,
    Y,
)
from quant.pool_barrier import count_up, wake
from quant.registers import f32, i64
from quant.simd import load, put
from quant.sync import atomic_store

LOWEST, HIGHEST = float("-inf"), float("inf")


@kernel
def join(arguments: int, first: int, last: int) -> None:
    """The foresight of a call's tokens in one. `first` and `last` count columns; a NaN says nothing."""
    num_tokens, num_now = argument(arguments, NUM_TOKENS), argument(arguments, NUM_NOW)
    for column in range(first, last):
        earliest = 0 if column < num_now else num_tokens - 1
        best = LOWEST
        for token in range(earliest, num_tokens):
            score = load(f32, argument(arguments, X) + token * argument(arguments, X_STRIDE) + column * 4)
            if score > best:
                best = score
        put(f32, argument(arguments, Y) + column * 4, best)


@kernel
def certain(arguments: int, first: int, last: int) -> None:
    """What is decided is no guess: chosen experts have the highest score, all others the lowest."""
    y, num_pairs = argument(arguments, Y), argument(arguments, NUM_TOKENS) * argument(arguments, NUM_CHOSEN)
    for _ in range(first, last):
        for expert in range(argument(arguments, NUM_EXPERTS)):
            put(f32, y + expert * 4, LOWEST)
        for pair in range(num_pairs):
            expert = load(i64, argument(arguments, CHOSEN) + pair * 8)
            put(f32, y + expert * 4, HIGHEST)


@kernel
def announce(arguments: int, first: int, last: int) -> None:
    """Tell who waits that there is news. Where a new call begins, no pass of it has begun: it is −1."""
    for _ in range(first, last):
        place, news = argument(arguments, PLACE), argument(arguments, NEWS)
        if place != 0:
            atomic_store(place, -1)
        if count_up(news) & 1:
            wake(news)
