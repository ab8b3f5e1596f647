"""Rounds on registers. The reference says what they compute.

The last two are no arithmetic: they decide how many tokens the next round has, and write it wherever the
operations of that round read it. Streams keep their order, so the tokens of one stay side by side.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.elementary.functions import canonical
from quant.kernels.residual.parts import load_part, store_part
from quant.kernels.rounds.places import (
    ACTIVE,
    ADDEND,
    ADDEND_STRIDE,
    COUNTS,
    DECAY,
    FIRST,
    FIRST_ROWS,
    HELD,
    HELD_STRIDE,
    INPUT,
    INPUT_STRIDE,
    MIXED,
    MIXED_STRIDE,
    NUM_COUNTS,
    NUM_ROUNDS,
    NUM_STREAMS,
    NUM_TOKENS,
    OWNERS,
    ROUND,
    SECOND,
    SHARES,
    STAYS,
    TAKEN,
    TARGETS,
    THRESHOLDS,
    TOTALS,
    WANTED,
    WIDTH,
    X_STRIDE,
    Y_STRIDE,
    X,
    Y,
)
from quant.lanes import add_lanes, lane
from quant.registers import f32x4, f32x16, i32x4, i64
from quant.simd import bitcast, load, put, splat, square_root, zeros


@helper
def row_of(arguments: int, place: int, stride: int, number: int) -> int:
    return argument(arguments, place) + number * argument(arguments, stride)


@helper
def token_of(arguments: int, number: int) -> int:
    return load(i64, argument(arguments, ACTIVE) + number * 8)


@helper
def length(sums: Any) -> Any:
    return lane(square_root(splat(f32x4, add_lanes(sums))), 0)


@kernel
def scale_rows(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens. The result may take the place of the input."""
    width, one, other = argument(arguments, WIDTH), argument(arguments, FIRST), argument(arguments, SECOND)
    for token in range(first, last):
        x, y = row_of(arguments, X, X_STRIDE, token), row_of(arguments, Y, Y_STRIDE, token)
        for i in range(0, width, 16):
            at, left = i * 4, width - i
            values = load_part(x + at, left) * load_part(one + at, left)
            if other != 0:
                values = values * load_part(other + at, left)
            store_part(y + at, canonical(values), left)


@kernel
def mix_rounds(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens in the loop."""
    width, decay = argument(arguments, WIDTH), argument(arguments, DECAY)
    for number in range(first, last):
        token = token_of(arguments, number)
        held, fed = row_of(arguments, HELD, HELD_STRIDE, token), row_of(arguments, INPUT, INPUT_STRIDE, token)
        mixed = row_of(arguments, MIXED, MIXED_STRIDE, number)
        for i in range(0, width, 16):
            at, left = i * 4, width - i
            before = zeros(f32x16)
            if argument(arguments, ROUND) > 0:
                before = load_part(held + at, left)
            values = load_part(decay + at, left) * before + load_part(fed + at, left)
            store_part(mixed + at, canonical(values), left)


@kernel
def keep_rounds(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count tokens in the loop."""
    width, number_of_round = argument(arguments, WIDTH), argument(arguments, ROUND)
    for number in range(first, last):
        token = token_of(arguments, number)
        bits = load(i64, argument(arguments, THRESHOLDS) + token * 8)
        threshold = lane(bitcast(f32x4, splat(i32x4, bits)), 0)
        held = row_of(arguments, HELD, HELD_STRIDE, token)
        mixed, addend = (
            row_of(arguments, MIXED, MIXED_STRIDE, number),
            row_of(arguments, ADDEND, ADDEND_STRIDE, number),
        )
        changes, sizes = zeros(f32x16), zeros(f32x16)
        for i in range(0, width, 16):
            at, left = i * 4, width - i
            after = canonical(load_part(mixed + at, left) + load_part(addend + at, left))
            change = after
            if number_of_round > 0:
                change = after - load_part(held + at, left)
            changes = changes + change * change
            sizes = sizes + after * after
            store_part(held + at, after, left)
        stays = i64(bits == 0 or length(changes) >= threshold * length(sizes))
        put(i64, argument(arguments, STAYS) + number * 8, stays)
        put(i64, argument(arguments, TAKEN) + token * 8, number_of_round + 1)


@helper
def count_of(arguments: int, number_of_round: int) -> int:
    """Where the number of a round's tokens stands."""
    return argument(arguments, COUNTS) + number_of_round * argument(arguments, NUM_COUNTS) * 8


@helper
def announce(arguments: int, number_of_round: int, count: int) -> None:
    """Write the number of tokens of a round wherever it is read, and what each stream has of them."""
    put(i64, count_of(arguments, number_of_round), count)
    total = argument(arguments, TOTALS) + number_of_round * 8
    put(i64, total, load(i64, total) + count)
    at = argument(arguments, TARGETS)
    for _ in range(load(i64, at)):
        at += 8
        put(i64, load(i64, at), count)
    at = argument(arguments, TARGETS) + (load(i64, argument(arguments, TARGETS)) + 1) * 8
    if argument(arguments, NUM_STREAMS) > 1:
        divide(arguments, count)
        announce_streams(arguments, at)


@helper
def divide(arguments: int, count: int) -> None:
    """How many of the tokens in the loop each stream has, and the row of its first."""
    shares, rows = argument(arguments, SHARES), argument(arguments, FIRST_ROWS)
    num_streams = argument(arguments, NUM_STREAMS)
    for stream in range(num_streams):
        put(i64, shares + stream * 8, 0)
    for number in range(count):
        share = shares + load(i64, argument(arguments, OWNERS) + token_of(arguments, number) * 8) * 8
        put(i64, share, load(i64, share) + 1)
    row = 0
    for stream in range(num_streams):
        put(i64, rows + stream * 8, row)
        row += load(i64, shares + stream * 8)


@helper
def announce_streams(arguments: int, lists: int) -> None:
    """Write the shares and the first rows of streams wherever they are read."""
    shares, rows = argument(arguments, SHARES), argument(arguments, FIRST_ROWS)
    for i in range(load(i64, lists)):
        entry = lists + 8 + i * 16
        put(i64, load(i64, entry), load(i64, shares + load(i64, entry + 8) * 8))
    later = lists + 8 + load(i64, lists) * 16
    for i in range(load(i64, later)):
        entry = later + 8 + i * 32
        row = load(i64, rows + load(i64, entry + 24) * 8)
        put(i64, load(i64, entry), load(i64, entry + 8) + row * load(i64, entry + 16))


@kernel
def begin_rounds(arguments: int, first: int, last: int) -> None:
    """All tokens take the first round, and no other one is known of yet. There is one unit."""
    for _ in range(first, last):
        count = load(i64, argument(arguments, NUM_TOKENS))
        for token in range(count):
            put(i64, argument(arguments, ACTIVE) + token * 8, token)
        numbers = argument(arguments, NUM_COUNTS)
        for later in range(numbers, argument(arguments, NUM_ROUNDS) * numbers):
            put(i64, argument(arguments, COUNTS) + later * 8, 0)
        announce(arguments, 0, count)


@kernel
def next_round(arguments: int, first: int, last: int) -> None:
    """Those that stay take the next round, if there is to be one. There is one unit.

    `ROUND` is the round that is over, `TARGETS` are those of the next.
    """
    for _ in range(first, last):
        over, left = argument(arguments, ROUND), 0
        active = argument(arguments, ACTIVE)
        for number in range(load(i64, count_of(arguments, over))):
            token = load(i64, active + number * 8)
            wanted = load(i64, argument(arguments, WANTED) + token * 8)
            if over + 1 < wanted and load(i64, argument(arguments, STAYS) + number * 8) != 0:
                put(i64, active + left * 8, token)
                left += 1
        announce(arguments, over + 1, left)
