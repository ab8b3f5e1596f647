"""What compiled code and the store tell each other: arrays whose addresses stand in a program's tables.

Experts are numbered through all layers: row · E + expert.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quant.kernels.experts.reading_places import FORETOLD_PLACES

Integers = NDArray[np.int64]
News = Literal["pass", "guesses", "decisions"]
"""A pass has begun; the lookahead router has spoken; experts are decided ahead."""
NEWS: tuple[News, ...] = ("pass", "guesses", "decisions")


class Ledger:
    """Where each expert lies, and which were visited when."""

    def __init__(self, *, num_layers: int, num_experts: int, most_passes: int) -> None:
        self.num_layers, self.num_experts = num_layers, num_experts
        size = num_layers * num_experts
        self.words: Integers = np.zeros(size, dtype=np.int64)
        """Where each lies in memory; `quant.kernels.experts.waiting_places` says how."""
        self.last_visits: Integers = np.zeros(size, dtype=np.int64)
        """The clock of each one's last visit, 0 before its first."""
        self.visits: Integers = np.zeros(size, dtype=np.int64)
        """How many passes visited each."""
        self.clock: Integers = np.zeros(1, dtype=np.int64)
        """Passes so far."""
        self.place: Integers = np.zeros(1, dtype=np.int64)
        """Which pass of a call began last."""
        self.begun: Integers = np.zeros(most_passes, dtype=np.int64)
        """The clock at which each pass of a call began last, 0 before its first."""
        self.news: Integers = np.zeros(1, dtype=np.int64)
        """A gate that opens once more with news that are heeded."""
        self.heeded: Integers = np.zeros(len(NEWS), dtype=np.int64)
        """Which news somebody wants to hear, as in `NEWS`: 1, else 0."""
        self.desk: Integers = np.zeros(1, dtype=np.int64)
        """The address of the head by which experts are read, 0 where nothing is read."""
        self.is_patient: Integers = np.zeros(1, dtype=np.int64)
        """Whether compiled code may wait for an expert; else it stops."""
        self.missing: Integers = np.zeros(1, dtype=np.int64)
        """Experts that were decided on just now and are neither in memory nor on their way."""
        self.decisions: Integers = np.zeros((num_layers, FORETOLD_PLACES), dtype=np.int64)
        """What each layer's decisions came to, as `quant.kernels.experts.reading_places` says."""
        self.stop: Integers = np.zeros(1, dtype=np.int64)
        """One more than the pass at which the program stopped; 0 where it did not."""

    def passes_taken(self, order: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Of a call's passes those that calls take now, and which of them began last.

        A call that takes few rounds of the loop leaves passes out. What began within as many passes as a call
        has at most was in this call or the one before.
        """
        clock, place = int(self.clock[0]), int(self.place[0])
        if clock < len(order):
            return order, place
        is_taken = self.begun[: len(order)] > clock - len(order)
        taken = tuple(row for row, is_one in zip(order, is_taken, strict=True) if is_one)
        return taken, int(np.count_nonzero(is_taken[: place + 1])) - 1

    def heed(self, *news: News) -> None:
        """Have these told from now on, and no others."""
        self.heeded[:] = [one in news for one in NEWS]

    def address_of_heeded(self, news: News) -> int:
        """Where it stands whether somebody wants to hear it."""
        return self.heeded[NEWS.index(news) :].ctypes.data

    def of_layer(self, array: Integers, row: int) -> int:
        """The address of an array's part for one layer."""
        return array.ctypes.data + row * self.num_experts * 8
