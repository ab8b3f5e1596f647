"""Word of experts that are not needed yet, left where whoever reads them from a disk looks for it.

What a layer ahead needs, it needs for all tokens of the call, so their scores are joined: the largest counts.
Of tokens to come the last one knows most. Nothing that a model computes depends on any of it.
"""

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.experts import reading_places as desk
from quant.kernels.experts.asking import is_there, wish_decided
from quant.kernels.experts.foresight_places import (
    CHOSEN,
    DECISIONS,
    DESK,
    HEEDED,
    MISSING,
    NEWS,
    NUM_CHOSEN,
    NUM_EXPERTS,
    NUM_NOW,
    NUM_TOKENS,
    PLACE,
    ROW,
    X_STRIDE,
    X,
    Y,
)
from quant.kernels.experts.worth import clock_of, passes_until, read, record_of
from quant.pool_barrier import count_up, wake
from quant.registers import f32, i64
from quant.simd import load, put
from quant.sync import atomic_add, atomic_load, atomic_store

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


@helper
def is_heeded(arguments: int) -> bool:
    heeded = argument(arguments, HEEDED)
    return heeded != 0 and atomic_load(heeded) != 0


@helper
def set_decided(arguments: int) -> None:
    """What the layer's experts are decided for is kept in memory until then, and what is away is counted."""
    head, row, count = (
        read(argument(arguments, DESK)),
        argument(arguments, ROW),
        argument(arguments, NUM_EXPERTS),
    )
    due = clock_of(head) + passes_until(head, row)
    decisions = argument(arguments, DECISIONS)
    for expert in range(count):
        put(i64, record_of(head, row * count + expert) + desk.DECIDED * 8, 0)
    for pair in range(argument(arguments, NUM_TOKENS) * argument(arguments, NUM_CHOSEN)):
        number = row * count + read(argument(arguments, CHOSEN) + pair * 8)
        record = record_of(head, number)
        if read(record + desk.DECIDED * 8) == 0:
            put(i64, record + desk.DECIDED * 8, 1)
            put(i64, record + desk.DUE * 8, max(due, read(record + desk.DUE * 8)))
            put(i64, decisions + desk.WISHED * 8, read(decisions + desk.WISHED * 8) + 1)
            if not is_there(head, number) and read(record + desk.SLOT * 8) == 0:
                atomic_add(argument(arguments, MISSING), 1)
    put(i64, decisions + desk.IS_OPEN * 8, 1)


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
        if is_heeded(arguments):
            set_decided(arguments)


@kernel
def order(arguments: int, first: int, last: int) -> None:
    """Have read what was decided on and is away. Where all is in memory nobody is woken for it."""
    for _ in range(first, last):
        if is_heeded(arguments) and atomic_load(argument(arguments, MISSING)) != 0:
            atomic_store(argument(arguments, MISSING), 0)
            wish_decided(read(argument(arguments, DESK)))


@kernel
def announce(arguments: int, first: int, last: int) -> None:
    """Tell who waits that there are guesses. A new call begins, and no pass of it has begun: it is −1."""
    for _ in range(first, last):
        news = argument(arguments, NEWS)
        atomic_store(argument(arguments, PLACE), -1)
        if is_heeded(arguments) and count_up(news) & 1:
            wake(news)
