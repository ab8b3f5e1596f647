"""Threads that stay inside compiled code and do jobs together.

A job is one call of a kernel `worker(table, thread, num_threads, block)` by every thread at once. `table` is
an address of whatever the worker understands; `barrier(block, thread, num_threads)` lets the threads wait for
each other between operations. A worker must give the same result for any `num_threads`, since a job gets
fewer threads than the pool has while another process takes a core away.

Between jobs the threads spin for moments, then yield, then sleep, and cost nothing. They are Python's threads
in one call that has released the interpreter, so the system's tools and limits see them as usual. They start
with the first job, and again in a forked child; they leave when the pool is closed or forgotten, and before
the interpreter ends.
"""

import atexit
import os
import threading
import weakref
from typing import Any

import numpy as np

from configs.errors import UsageError
from quant.native import Kernel, NamedKernel, code_of
from quant.parking import Parking, parkings
from quant.pool_places import (
    BUSY,
    CLOSED,
    HOLD_NS,
    IDLE,
    LINE,
    MAX_THREADS,
    NUM_BYTES,
    NUM_THREADS,
    PARKING,
    PARKING_CODES,
    PATIENCE,
    SHORTEST_HOLD_NS,
    STATE,
    UNSTARTED,
    USABLE,
    WORKER,
)
from quant.pool_threads import ThreadCount, default_threads

_launch = NamedKernel("quant.pool_kernels", "launch", 2)
_park = NamedKernel("quant.pool_kernels", "park", 2)
_admit = NamedKernel("quant.pool_kernels", "admit", 1)
_retire = NamedKernel("quant.pool_kernels", "retire", 1)
POOL_KERNELS = (_launch, _park, _admit, _retire)


class Pool:
    """A worker and the threads that run it. One job at a time; the caller of `run` is thread 0."""

    def __init__(
        self, worker: Kernel, *, num_threads: int | None = None, parking: Parking | None = None
    ) -> None:
        """The worker takes the address of a table, a thread, how many they are, and the barrier's block."""
        wanted = _checked_threads(num_threads)
        chosen_parking = _checked_parking(parking)
        for kernel in POOL_KERNELS:
            code_of(kernel)
        self._launch = code_of(_launch).call
        self.num_threads, self.reason = wanted.count, wanted.reason
        self._crew = _Crew(worker, num_threads=wanted.count, parking=chosen_parking)
        _forget_the_gone()
        _crews.add(self._crew)
        # Not joined here: the collector runs anywhere, even inside of what joining needs.
        weakref.finalize(self, self._crew.dismiss).atexit = False

    def run(self, table: int) -> None:
        """Do one job; it is done when this returns. The interpreter is free, and an interrupt waits.

        The caller keeps the table's memory alive; an address does not.
        """
        found = self._launch(self._crew.address, table)
        if found != IDLE:
            if found == UNSTARTED:
                self._crew.start()
                found = self._launch(self._crew.address, table)
            _refuse(found)

    @property
    def usable_threads(self) -> int:
        """How many threads the next job gets; fewer than `num_threads` while another process takes cores."""
        return self._crew.read(USABLE)

    def close(self) -> None:
        """Wait for a job that is being done, and end the threads. Closing twice does no harm."""
        self._crew.dismiss()
        self._crew.join()
        _crews.discard(self._crew)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Crew:
    """The threads and their control block; they do not hold the pool, so that it can be forgotten."""

    def __init__(self, worker: Kernel, *, num_threads: int, parking: Parking) -> None:
        self._worker, self._num_threads = worker, num_threads
        self._parking: Parking = parking
        self._code = code_of(worker).address
        self.begin()

    def begin(self) -> None:
        """A fresh block and no threads: at first, and in a forked child, which inherits none."""
        memory = np.zeros((NUM_BYTES + LINE) // 8, dtype=np.int64)
        skipped = -memory.ctypes.data % LINE // 8
        self._block = memory[skipped : skipped + NUM_BYTES // 8]
        self.address = self._block.ctypes.data
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._write(PARKING, PARKING_CODES[self._parking])
        for place, (spin_ns, park_ns) in PATIENCE.items():
            self._write(place, spin_ns)
            self._write(place + 8, park_ns)
        self._write(NUM_THREADS, self._num_threads)
        self._write(USABLE, self._num_threads)
        self._write(HOLD_NS, SHORTEST_HOLD_NS)
        self._write(WORKER, self._code)

    def start(self) -> None:
        """Start the threads, unless another caller just did. It may be called again after an interrupt."""
        with self._starting:
            if self.read(STATE) != UNSTARTED:
                return
            self._threads = [thread for thread in self._threads if thread.ident is not None]
            for number in range(1, self._num_threads):
                thread = threading.Thread(
                    target=_live, args=(self._block, self._worker, number), name=f"pool-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            _admit(self.address)

    def dismiss(self) -> None:
        _retire(self.address)

    def join(self) -> None:
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()

    def is_gone(self) -> bool:
        return self.read(STATE) == CLOSED and not any(thread.is_alive() for thread in self._threads)

    def read(self, place: int) -> int:
        return int(self._block[place // 8])

    def _write(self, place: int, value: int) -> None:
        self._block[place // 8] = value


_crews: set[_Crew] = set()


def _live(block: Any, _worker: Kernel, number: int) -> None:
    """What a thread does. Its arguments keep alive what it works with."""
    _park(block.ctypes.data, number)


def _refuse(found: int) -> None:
    if found == BUSY:
        raise UsageError(
            "this pool is doing another job already, and it does one at a time",
            hint="Wait until `run` has returned in the other thread, or make a pool of its own for this one.",
        )
    if found == CLOSED:
        raise UsageError("this pool is closed", hint="Make a new one, or close it later.")


def check_threads(num_threads: int) -> None:
    """Refuse a number of threads that no pool can have."""
    if not 1 <= num_threads <= MAX_THREADS:
        raise UsageError(
            f"{num_threads} threads; 1 to {MAX_THREADS} are allowed",
            hint=f"Leave the number out, and there will be {default_threads().count}.",
        )


def _checked_threads(num_threads: int | None) -> ThreadCount:
    if num_threads is None:
        found = default_threads()
        return ThreadCount(count=min(found.count, MAX_THREADS), reason=found.reason)
    check_threads(num_threads)
    if num_threads > 1 and parkings() == ("none",):
        return default_threads()
    return ThreadCount(count=num_threads, reason="as asked")


def _checked_parking(parking: Parking | None) -> Parking:
    if parking is not None and parking not in parkings():
        raise UsageError(f"threads cannot wait by {parking!r} here; it can be {' or '.join(parkings())}")
    return parking or parkings()[0]


def _forget_the_gone() -> None:
    for crew in [crew for crew in list(_crews) if crew.is_gone()]:
        _crews.discard(crew)


def _end() -> None:
    """Before the interpreter ends: a thread that were still in compiled code would meet its ruins."""
    crews = list(_crews)
    for crew in crews:
        crew.dismiss()
    for crew in crews:
        crew.join()


def _begin_in_child() -> None:
    for crew in list(_crews):
        if crew.read(STATE) != CLOSED:
            crew.begin()


# Other threads of Python's, which may still do jobs, have ended by then, unless they are daemons.
atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
