"""What compiled code and the store tell each other: arrays whose addresses stand in a program's tables.

Experts are numbered through all layers: row · E + expert.
"""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


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
        """A gate that opens once more with each pass."""
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

    def of_layer(self, array: Integers, row: int) -> int:
        """The address of an array's part for one layer."""
        return array.ctypes.data + row * self.num_experts * 8
