"""Where experts are asked for and handed out: memory that compiled code reads and writes, as Python sees it.

Which slot an expert gets is decided in `quant.kernels.experts.asking`; who reads it stays in compiled code,
`quant.kernels.experts.reading`, from one read to the next, and brings up here what that cannot read.
"""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.ledger import Ledger
from chronos_moe.store.manifest import Place
from chronos_moe.store.policy import POLICY_CODES, PolicyName
from chronos_moe.store.slots import Slots
from quant.kernels.experts import reading_places as at
from quant.native import NamedKernel, code_of
from quant.parking import parkings
from quant.pool_places import LINE, PARKING, PARKING_CODES, THREADS

Integers = NDArray[np.int64]

_ASKING, _READING = "quant.kernels.experts.asking", "quant.kernels.experts.reading"
_demand = NamedKernel(_ASKING, "demand", 5)
_insist = NamedKernel(_ASKING, "insist", 4)
_wish = NamedKernel(_ASKING, "wish", 3)
_borrow = NamedKernel(_ASKING, "borrow", 2)
_give_back = NamedKernel(_ASKING, "give_back", 2)
_serve = NamedKernel(_READING, "serve", 1)
_finish = NamedKernel(_READING, "finish", 3)
_close = NamedKernel(_READING, "close", 1)
_await = NamedKernel(_READING, "await_experts", 7)
_ALL = (_demand, _insist, _wish, _borrow, _give_back, _serve, _finish, _close, _await)

NAP_S = 0.001
"""Between two looks, on a system where compiled code cannot sleep."""
_TURN_NS = 200_000_000
"""Nobody sleeps longer than this without a look, so that interrupts are noticed."""
_SPAN = (at.BEGIN_NS, at.END_NS)
NOBODY = -1
"""In place of an open file, where Python reads."""


def sleeping_block() -> Integers:
    """How threads sleep on this system, told in the way of a pool's block; who sleeps by it never spins."""
    block = np.zeros((THREADS + LINE) // 8, dtype=np.int64)
    block[PARKING // 8] = PARKING_CODES[parkings()[0]]
    return block


class Desk:
    """The head, the slots' rows and the experts' records of `quant.kernels.experts.reading_places`."""

    def __init__(
        self,
        slots: Slots,
        ledger: Ledger,
        *,
        places: Sequence[Place],
        order: tuple[int, ...],
        policy: PolicyName,
    ) -> None:
        """`places` are where each expert lies; `order` the passes of a call by their layers' rows."""
        for kernel in _ALL:
            # Here, before there are threads: code is looked for by one at a time.
            code_of(kernel)
        size = at.ROWS // 8 + slots.num_slots * at.ROW_PLACES
        memory = np.zeros(size + LINE // 8, dtype=np.int64)
        skipped = -memory.ctypes.data % LINE // 8
        self._head: Integers = memory[skipped : skipped + size]
        self._rows = self._head[at.ROWS // 8 :].reshape(slots.num_slots, at.ROW_PLACES)
        self.address = self._head.ctypes.data
        self._places, self._ledger = places, ledger
        self._records: Integers = np.zeros((len(places), at.RECORD_PLACES), dtype=np.int64)
        self._block = sleeping_block()
        self._stall_spans: Integers = np.zeros((at.NUM_STALL_SPANS, 2), dtype=np.int64)
        self._pass_rows: Integers = np.array(order, dtype=np.int64)
        self._slots = slots
        addresses = {
            at.BLOCK: self._block,
            at.RECORDS: self._records,
            at.STALL_SPANS: self._stall_spans,
            at.PASS_ROWS: self._pass_rows,
            at.WORDS: ledger.words,
            at.LAST_VISITS: ledger.last_visits,
            at.VISITS: ledger.visits,
            at.CLOCK: ledger.clock,
            at.PLACE: ledger.place,
            at.BEGUN: ledger.begun,
        }
        values = {
            at.NUM_SLOTS: slots.num_slots,
            at.SLOTS: slots.address,
            at.BLOCK_BYTES: slots.block_bytes,
            at.POLICY: POLICY_CODES[policy],
            at.NUM_ALL: len(places),
            at.NUM_EXPERTS: ledger.num_experts,
            at.NUM_PASSES: len(order),
            **{place: array.ctypes.data for place, array in addresses.items()},
        }
        for place, value in values.items():
            self._head[place // 8] = value
        self._records[:, at.OFFSET] = [place.offset for place in places]

    def read_from(self, handles: Sequence[int] | None) -> None:
        """Have compiled code read from open files, by the numbers of clusters; None leaves it to Python."""
        self._records[:, at.HANDLE] = [
            NOBODY if handles is None else handles[place.cluster] for place in self._places
        ]

    def demand(self, first: int, experts: Sequence[int], *, is_visit: bool) -> None:
        """Have experts of a layer there from now on, and let go of what was demanded before."""
        chosen = np.array(experts, dtype=np.int64)
        _demand(self.address, first, chosen.ctypes.data, len(chosen), int(is_visit))

    def wish(self, wishes: Sequence[tuple[int, int]]) -> None:
        """Have experts read ahead: their numbers, and in how many passes they are needed."""
        table = np.array(wishes, dtype=np.int64).reshape(-1, 2)
        _wish(self.address, table.ctypes.data, len(table))

    def wait(self, numbers: Sequence[int], *, until: float) -> None:
        """Sleep until experts that were demanded are there, or a read has failed; or for a moment.

        It is not longer than until a time, which is one of `time.monotonic`.
        """
        gate, num_failed = int(self._head[at.ENDED // 8]) & -2, int(self._head[at.NUM_FAILED // 8])
        named = np.array(numbers, dtype=np.int64)
        left = _insist(self.address, 0, named.ctypes.data, len(named))
        if parkings() == ("none",):
            time.sleep(min(NAP_S, max(0.0, until - time.monotonic())))
            return
        end = time.monotonic_ns() + _TURN_NS
        end = end if until == np.inf else min(end, int(until * 1e9))
        _await(self.address, 0, named.ctypes.data, 0 if left else len(named), gate, num_failed, end)

    def borrow(self, number: int) -> int | None:
        """Take an expert into use; its slot, or None where it is away or in use."""
        address = _borrow(self.address, number)
        return (address - self._slots.address) // self._slots.block_bytes if address else None

    def give_back(self, number: int) -> None:
        """It is no longer in use."""
        _give_back(self.address, number)

    def next(self) -> int | None:
        """A slot that Python has to fill; None when all is closed. Everything else is read meanwhile."""
        while not self._head[at.IS_CLOSED // 8]:
            slot = _serve(self.address)
            if slot != at.NOTHING:
                return slot
            time.sleep(NAP_S)
        return None

    def number_of(self, slot: int) -> int:
        """Whose bytes come into a slot."""
        return int(self._rows[slot, at.NUMBER])

    def finish(self, slot: int, *, is_read: bool) -> None:
        """What `next` gave is read, or could not be."""
        _finish(self.address, slot, int(is_read))

    def count(self, place: int) -> int:
        """One of the head's counts."""
        return int(self._head[place // 8])

    @property
    def num_on_their_way(self) -> int:
        """Experts that are asked for and not there."""
        states = self._rows[:, at.STATE]
        return int(np.count_nonzero((states == at.AWAITED) | (states == at.BEGUN_TO_READ)))

    @property
    def num_unvisited(self) -> int:
        """Experts that are there, as somebody wished for them, and were not visited since."""
        numbers = self._rows[
            (self._rows[:, at.STATE] == at.THERE) & (self._rows[:, at.IS_WISH] != 0), at.NUMBER
        ]
        return int(np.count_nonzero(self._ledger.last_visits[numbers] <= self._records[numbers, at.LOADED]))

    def reads_between(self, begin_ns: int, end_ns: int) -> list[tuple[float, float]]:
        """From when to when slots were read into, in seconds, where that ended between two times.

        Of a slot that was read into twice the last read is told.
        """
        begin, end = self._rows[:, at.BEGIN_NS], self._rows[:, at.END_NS]
        is_meant = (end > begin_ns) & (end <= end_ns) & (begin <= end)
        return [(begin / 1e9, end / 1e9) for begin, end in self._rows[is_meant][:, _SPAN].tolist()]

    def stalls_since(self, number: int) -> list[tuple[float, float]]:
        """From when to when compiled code waited; only the last ones are remembered."""
        count = self.count(at.STALLS)
        places = [one % at.NUM_STALL_SPANS for one in range(max(number, count - at.NUM_STALL_SPANS), count)]
        return [(begin / 1e9, end / 1e9) for begin, end in self._stall_spans[places].tolist()]

    def close(self) -> None:
        """Who reads leaves after the read that has begun, and who waits looks up."""
        _close(self.address)
