"""Threads for benchmarks: those of `quant.pool`, which are those of the engine."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quant.indirect import call_kernel
from quant.jit import kernel
from quant.kernels.operation import Kernel
from quant.native import address_of
from quant.pool import Pool
from quant.pool_barrier import barrier
from quant.registers import i64
from quant.simd import load

COUNT, CALLS, CALL_BYTES, UNITS, KERNEL, NUM_PLACES = range(6)


@kernel
def calls(table: int, thread: int, num_threads: int, block: int) -> None:
    """Calls of one kernel, each cut into as many parts as there are threads, and a barrier after each."""
    count, call, call_bytes, units, code = (
        load(i64, table + COUNT * 8),
        load(i64, table + CALLS * 8),
        load(i64, table + CALL_BYTES * 8),
        load(i64, table + UNITS * 8),
        load(i64, table + KERNEL * 8),
    )
    first, last = units * thread // num_threads, units * (thread + 1) // num_threads
    for _ in range(count):
        call_kernel(code, call, first, last)
        barrier(block, thread, num_threads)
        call += call_bytes


class Crew:
    """A pool that does the same call, or many of them, whenever it is asked to."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._pool = Pool(calls, num_threads=num_threads)
        self.jobs = 0
        self.jobs_of_fewer = 0
        """Jobs that did not get all threads, as another process had a core; they are in the times."""

    def job(self, kernel: Kernel, arguments: NDArray[np.int64], *, units: int) -> Callable[[], None]:
        """What does all units of a kernel, once for each row of arguments; it keeps them alive."""
        call_rows = np.ascontiguousarray(np.atleast_2d(arguments))
        table = np.zeros(NUM_PLACES, dtype=np.int64)
        table[COUNT], table[CALLS] = len(call_rows), call_rows.ctypes.data
        table[CALL_BYTES], table[UNITS] = call_rows.strides[0], units
        table[KERNEL] = address_of(kernel)
        address = table.ctypes.data

        def run(_alive: tuple[object, ...] = (table, call_rows, kernel)) -> None:
            self.jobs += 1
            self.jobs_of_fewer += self._pool.usable_threads < self.num_threads
            self._pool.run(address)

        return run

    @property
    def size(self) -> str:
        return "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"

    @property
    def told(self) -> str:
        """Whether the threads were there, in words."""
        if self.num_threads == 1:
            return "the caller's"
        return f"{self.jobs_of_fewer} of {self.jobs} jobs had fewer, as another process took a core"
