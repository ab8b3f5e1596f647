"""What one head sees of slots, answers and window, in a kernel. The reference says what is computed."""

from typing import Any

from quant.jit import helper
from quant.kernels.arguments import argument
from quant.kernels.elementary.functions import exp
from quant.kernels.titans import places as at
from quant.kernels.titans.vectors import HEAD, dot, floats_of, lanes_of_codes, sixteen_sums
from quant.lanes import add_lanes, max_lanes
from quant.registers import f32, f32x16
from quant.simd import broadcast, load, load_first, maximum, put, splat, store, store_first, zeros

LOWEST = float("-inf")


@helper
def registers_of(count: int) -> int:
    """Bytes of whole registers that hold as many scores."""
    return ((count + 15) >> 4) * 64


@helper
def close(scores: int, count: int) -> None:
    """No score in what fills the last register; those that there are come after."""
    if count & 15:
        store(scores + (count & -16) * 4, splat(f32x16, LOWEST))


@helper
def score_floats(scores: int, x: int, keys: int, count: int, blocks: int) -> None:
    """Products of x with the keys of slots or answers."""
    close(scores, count)
    for j in range(count):
        put(f32, scores + j * 4, dot(x, keys + j * blocks * 256, blocks))


@helper
def score_codes(scores: int, x: int, codes: int, count: int, blocks: int) -> None:
    """Products of x with the keys of the window, sixteen at a time."""
    close(scores, count)
    stride = blocks * 64
    for j in range(0, count & -16, 16):
        store(scores + j * 4, sixteen_sums(x, codes + j * stride, stride, blocks))
    for j in range(count & -16, count):
        put(f32, scores + j * 4, add_lanes(lanes_of_codes(x, codes + j * stride, blocks)))


@helper
def scale_scores(scores: int, scales: int, count: int) -> None:
    """Scores, or shares, times the scales of their keys or values."""
    for i in range(0, count, 16):
        left = count - i
        value = load_first(f32x16, scores + i * 4, left) * load_first(f32x16, scales + i * 4, left)
        store_first(scores + i * 4, value, left)


@helper
def shares_of(scores: int, end: int) -> Any:
    """All scores become shares in place; gives their sum, in all lanes."""
    tops = splat(f32x16, LOWEST)
    for place in range(scores, end, 64):
        tops = maximum(load(f32x16, place), tops)
    top = splat(f32x16, max_lanes(tops))
    total = zeros(f32x16)
    for place in range(scores, end, 64):
        share = exp(load(f32x16, place) - top)
        store(place, share)
        total = total + share
    return splat(f32x16, add_lanes(total))


@helper
def add_floats(sums: Any, shares: int, values: int, count: int, blocks: int) -> Any:
    """One block of the weighted values of slots or answers."""
    for j in range(count):
        sums = sums + load(HEAD, values + j * blocks * 256) * broadcast(f32x16, shares + j * 4)
    return sums


@helper
def add_codes(sums: Any, shares: int, codes: int, count: int, blocks: int) -> Any:
    """One block of the weighted values of the window."""
    for j in range(count):
        sums = sums + floats_of(codes + j * blocks * 64) * broadcast(f32x16, shares + j * 4)
    return sums


@helper
def attend(
    target: int, arguments: int, head: int, position: int, q: int, gained_q: int, turned_q: int, blocks: int
) -> None:
    """The weighted mean of all that is seen by the token at a position."""
    num_slots, chunk = argument(arguments, at.NUM_SLOTS), argument(arguments, at.MEMORY_CHUNK)
    num_answers, window = position % chunk + 1, argument(arguments, at.WINDOW)
    held = min(position + 1, window)
    slots, places = head * num_slots * blocks, head * window
    answers = argument(arguments, at.ANSWERS) + head * chunk * blocks * 256
    in_slots = argument(arguments, at.SCORES) + head * argument(arguments, at.SCORE_STRIDE)
    in_answers = in_slots + registers_of(num_slots)
    in_window = in_answers + registers_of(num_answers)

    slot_keys = argument(arguments, at.SLOT_KEYS) + slots * 256
    score_floats(in_slots, q, slot_keys, num_slots, blocks)
    score_floats(in_answers, gained_q, answers, num_answers, blocks)
    scale_scores(in_answers, argument(arguments, at.ANSWER_SCALES) + head * chunk * 4, num_answers)
    keys = argument(arguments, at.KEYS) + places * blocks * 64
    score_codes(in_window, turned_q, keys, held, blocks)
    scale_scores(in_window, argument(arguments, at.KEY_SCALES) + places * 4, held)

    total = shares_of(in_slots, in_window + registers_of(held))
    scale_scores(in_window, argument(arguments, at.VALUE_SCALES) + places * 4, held)
    slot_values = argument(arguments, at.SLOT_VALUES) + slots * 256
    values = argument(arguments, at.VALUES) + places * blocks * 64
    for b in range(blocks):
        sums = add_floats(zeros(HEAD), in_slots, slot_values + b * 256, num_slots, blocks)
        sums = add_floats(sums, in_answers, answers + b * 256, num_answers, blocks)
        sums = add_codes(sums, in_window, values + b * 64, held, blocks)
        store(target + b * 256, sums / total)
