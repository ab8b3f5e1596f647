"""Argument tables of operations on rounds, made of arrays."""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary.calls import VectorCall, check_array, set_rows
from quant.kernels.rounds.places import (
    ACTIVE,
    ADDEND,
    ADDEND_STRIDE,
    DECAY,
    FIRST,
    HELD,
    HELD_STRIDE,
    INPUT,
    INPUT_STRIDE,
    MIXED,
    MIXED_STRIDE,
    NUM_PLACES,
    ROUND,
    SECOND,
    STAYS,
    TAKEN,
    THRESHOLDS,
    WIDTH,
    X_STRIDE,
    Y_STRIDE,
    X,
    Y,
)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def scale_rows_call(x_TD: Floats, first_D: Floats, second_D: Floats | None = None) -> VectorCall:
    """y [tokens, width]."""
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    _set(table, x_TD, shape=x_TD.shape, address=X, stride=X_STRIDE)
    diagonals = (first_D,) if second_D is None else (first_D, second_D)
    for place, diagonal in zip((FIRST, SECOND), diagonals, strict=False):
        check_array(diagonal, shape=x_TD.shape[1:], dtype=np.float32, what="a diagonal")
        table[place] = diagonal.ctypes.data
    y = np.empty(x_TD.shape, dtype=np.float32)
    table[WIDTH], table[Y], table[Y_STRIDE] = x_TD.shape[1], y.ctypes.data, y.strides[0]
    return VectorCall(table=table, outputs=(y,), units=x_TD.shape[0], held=(x_TD, *diagonals))


def mix_rounds_call(
    held_TD: Floats, input_TD: Floats, decay_D: Floats, active: Integers, *, round_number: int
) -> VectorCall:
    """The residual stream of a round [tokens in the loop, width]."""
    table = _round_table(held_TD, active, round_number=round_number)
    _set(table, input_TD, shape=held_TD.shape, address=INPUT, stride=INPUT_STRIDE)
    check_array(decay_D, shape=held_TD.shape[1:], dtype=np.float32, what="the decay")
    mixed = np.empty((active.size, held_TD.shape[1]), dtype=np.float32)
    table[DECAY], table[MIXED], table[MIXED_STRIDE] = decay_D.ctypes.data, mixed.ctypes.data, mixed.strides[0]
    held = (held_TD, input_TD, decay_D, active)
    return VectorCall(table=table, outputs=(mixed,), units=active.size, held=held)


def keep_rounds_call(
    held_TD: Floats,
    mixed_TD: Floats,
    addend_TD: Floats,
    active: Integers,
    *,
    round_number: int,
    thresholds: Floats,
) -> VectorCall:
    """Which of the tokens in the loop stay, and the rounds taken by each token; what is held is written anew.

    Rounds are written of tokens in the loop alone.
    """
    table = _round_table(held_TD, active, round_number=round_number)
    shape = (active.size, held_TD.shape[1])
    _set(table, mixed_TD, shape=shape, address=MIXED, stride=MIXED_STRIDE)
    _set(table, addend_TD, shape=shape, address=ADDEND, stride=ADDEND_STRIDE)
    check_array(thresholds, shape=held_TD.shape[:1], dtype=np.float32, what="the thresholds")
    bits = thresholds.view(np.int32).astype(np.int64)
    stays, taken = np.empty(active.size, dtype=np.int64), np.empty(len(held_TD), dtype=np.int64)
    table[THRESHOLDS], table[STAYS], table[TAKEN] = (x.ctypes.data for x in (bits, stays, taken))
    held = (mixed_TD, addend_TD, active, bits)
    return VectorCall(table=table, outputs=(held_TD, stays, taken), units=active.size, held=held)


def _round_table(held_TD: Floats, active: Integers, *, round_number: int) -> Integers:
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    _set(table, held_TD, shape=held_TD.shape, address=HELD, stride=HELD_STRIDE)
    check_array(active, shape=(active.size,), dtype=np.int64, what="the tokens in the loop")
    table[WIDTH], table[ACTIVE], table[ROUND] = held_TD.shape[1], active.ctypes.data, round_number
    return table


def _set(table: Integers, rows: Floats, *, shape: tuple[int, ...], address: int, stride: int) -> None:
    set_rows(table, rows, shape=shape, address=address, stride=stride, what="the rows")
