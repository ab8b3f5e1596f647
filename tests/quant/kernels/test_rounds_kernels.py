"""Rounds: the decay and the gain, and who takes the next round."""

import numpy as np
import pytest
from numpy.typing import NDArray

from quant.kernels.elementary.reference import exp, softplus
from quant.kernels.rounds import kernels
from quant.kernels.rounds import places as at
from quant.kernels.rounds.reference import decay_and_gain


def test_decay_and_gain_are_those_of_the_exact_hold() -> None:
    rng = np.random.default_rng(0)
    A_log, dt_bias = rng.uniform(-6, 3, 5000).astype(np.float32), rng.uniform(-9, 4, 5000).astype(np.float32)
    decay, gain = decay_and_gain(A_log, dt_bias, exact=True)
    rate = np.exp(A_log.astype(np.float64))
    step = np.log1p(np.exp(dt_bias.astype(np.float64)))
    # e^{−x} of a float32 x is off by x times the rounding of x.
    np.testing.assert_allclose(decay, np.exp(-rate * step), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gain, -np.expm1(-rate * step) / rate, rtol=2e-6)
    assert np.array_equal(decay_and_gain(A_log, dt_bias, exact=False)[1], softplus(dt_bias))
    assert (decay < 1).all()
    assert (gain > 0).all()
    assert np.array_equal(decay, exp(-(softplus(dt_bias) * exp(A_log))))


class Loop:
    """The integers of a loop of four rounds."""

    def __init__(self, *, num_tokens: int, wanted: int) -> None:
        self.num_tokens, self.wanted = np.array([num_tokens]), np.full(num_tokens, wanted)
        self.active, self.stays = np.full(num_tokens, -1), np.zeros(num_tokens, dtype=np.int64)
        self.counts, self.totals = np.full(4, 77), np.zeros(4, dtype=np.int64)
        self.read = np.full(3, -1)
        self.targets = np.array([3, *(self.read.ctypes.data + np.arange(3) * 8), 0, 0])
        self.table = np.zeros(at.NUM_PLACES, dtype=np.int64)
        for place, array in (
            (at.NUM_TOKENS, self.num_tokens),
            (at.WANTED, self.wanted),
            (at.ACTIVE, self.active),
            (at.STAYS, self.stays),
            (at.COUNTS, self.counts),
            (at.TOTALS, self.totals),
            (at.TARGETS, self.targets),
        ):
            self.table[place] = array.ctypes.data
        self.table[at.NUM_ROUNDS], self.table[at.NUM_COUNTS], self.table[at.NUM_STREAMS] = 4, 1, 1

    def begin(self) -> None:
        kernels.begin_rounds(self.table.ctypes.data, 0, 1)

    def follow(self, number: int, stays: NDArray[np.int64]) -> list[int]:
        """Who takes the round after one."""
        self.stays[: stays.size], self.table[at.ROUND] = stays, number
        kernels.next_round(self.table.ctypes.data, 0, 1)
        return self.active[: self.counts[number + 1]].tolist()


def test_rounds_are_told_to_whom_they_concern() -> None:
    loop = Loop(num_tokens=6, wanted=3)
    loop.begin()
    assert loop.active.tolist() == [0, 1, 2, 3, 4, 5]
    assert (loop.counts.tolist(), loop.read.tolist()) == ([6, 0, 0, 0], [6, 6, 6])
    assert loop.follow(0, np.array([1, 0, 1, 1, 0, 1])) == [0, 2, 3, 5]
    assert loop.read.tolist() == [4, 4, 4]
    assert loop.follow(1, np.array([0, 1, 1, 0])) == [2, 3]
    assert loop.follow(2, np.array([1, 1])) == [], "three rounds were asked for"
    assert loop.read.tolist() == [0, 0, 0]
    assert loop.totals.tolist() == [6, 4, 2, 0]
    loop.begin()
    assert loop.counts.tolist() == [6, 0, 0, 0]


@pytest.mark.parametrize("wanted", [1, 2])
def test_nobody_stays_beyond_the_rounds_that_are_wanted(wanted: int) -> None:
    loop = Loop(num_tokens=2, wanted=wanted)
    loop.begin()
    assert loop.follow(0, np.array([1, 1])) == ([] if wanted == 1 else [0, 1])


class SharedLoop(Loop):
    """The same for three streams, with a place that holds each one's number of tokens and its first row."""

    def __init__(self, *, owners: list[int], wanted: list[int]) -> None:
        super().__init__(num_tokens=len(owners), wanted=0)
        self.wanted[:], self.owners = wanted, np.array(owners)
        self.counts = np.full(16, 77)
        self.shares, self.rows, self.work = np.full(3, -1), np.full(3, -1), np.full((2, 3), -1)
        shares = [(self.shares.ctypes.data + stream * 8, stream) for stream in range(3)]
        rows = [(self.rows.ctypes.data + stream * 8, 1000, 10, stream) for stream in range(3)]
        lists = [0, 3, *(value for entry in shares for value in entry)]
        self.targets = np.array([*lists, 3, *(value for entry in rows for value in entry)])
        for place, array in (
            (at.COUNTS, self.counts),
            (at.TARGETS, self.targets),
            (at.OWNERS, self.owners),
            (at.SHARES, self.work[0]),
            (at.FIRST_ROWS, self.work[1]),
        ):
            self.table[place] = array.ctypes.data
        self.table[at.NUM_COUNTS], self.table[at.NUM_STREAMS] = 4, 3


def test_streams_are_told_how_many_of_their_tokens_stay_and_where() -> None:
    loop = SharedLoop(owners=[0, 0, 0, 2, 2], wanted=[2, 2, 2, 3, 3])
    loop.begin()
    assert loop.counts[[0, 4, 8, 12]].tolist() == [5, 0, 0, 0]
    assert not loop.counts[4:].any(), "nothing is left of the call before"
    assert (loop.shares.tolist(), loop.rows.tolist()) == ([3, 0, 2], [1000, 1030, 1030])
    loop.follow(0, np.array([0, 1, 1, 1, 1]))
    assert loop.active[:4].tolist() == [1, 2, 3, 4]
    assert (loop.shares.tolist(), loop.rows.tolist()) == ([2, 0, 2], [1000, 1020, 1020])
    loop.follow(1, np.array([1, 1, 0, 1]))
    assert (loop.counts[8], loop.active[0]) == (1, 4), "the first stream wanted two rounds"
    assert (loop.shares.tolist(), loop.rows.tolist()) == ([0, 0, 1], [1000, 1000, 1000])
