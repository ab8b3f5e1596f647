"""How fast this machine reads memory that no cache holds, by the threads of a pool.

A model is measured beside it with the same threads, so that both do without a core that another process
takes.
"""

import time
from dataclasses import dataclass

import numpy as np

from quant.native import KernelsOf
from quant.pool import Pool
from runtime import system
from runtime.arena import aligned_zeros
from runtime.measuring.machine_places import ADDRESS, NUM_PLACES, PIECE_BYTES, RESULT_BYTES, RESULTS
from runtime.measuring.pages import as_bytes, populate, reserve
from runtime.measuring.timing import Times
from runtime.program import Count, Program, Step

machine = KernelsOf("runtime.measuring.machine_kernels")

LEAST_READ_BYTES = 64 * 2**20
CACHES_READ = 4
"""Reading this many times what the caches hold finds nothing there."""
_FEWEST, _MOST = 3, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingSpeed:
    """What was found."""

    bytes_per_s: float
    """By the median of some passes from end to end."""
    was_shared: bool
    """Other processes took cores, and the figure is of fewer threads."""


class Reading:
    """Memory, and the job of reading all of it. A pool runs `runtime.worker.run_records`."""

    def __init__(self, pool: Pool) -> None:
        num_bytes = bytes_to_read(system.cache_bytes())
        memory = reserve(num_bytes)
        populate(memory)  # a page that nobody has written is no memory yet
        self._memory = as_bytes(memory)[:num_bytes]
        self._results = aligned_zeros(num_bytes // PIECE_BYTES * RESULT_BYTES)
        one = Count(cell=np.ones(1, dtype=np.int64))
        step = Step(
            kernel=machine.read_memory,
            arguments={ADDRESS: self._memory.ctypes.data, RESULTS: self._results.ctypes.data},
            num_places=NUM_PLACES,
            units=num_bytes // PIECE_BYTES,
        )
        self._program = Program([(one, (step,))], tokens=one)
        self._pool = pool
        self._pool.run(self._program.job)  # the first job starts threads

    def speed(self, *, seconds: float = 0.0) -> ReadingSpeed:
        """What it is now: of three passes, or of as many as there is time for."""
        times = Times()
        end = time.perf_counter() + seconds
        while len(times) < _FEWEST or (time.perf_counter() < end and len(times) < _MOST):
            times.take(
                lambda: self._pool.run(self._program.job),
                has_all_threads=lambda: self._pool.usable_threads == self._pool.num_threads,
            )
        return ReadingSpeed(bytes_per_s=self._memory.size / times.median_s, was_shared=times.were_shared)


def bytes_to_read(cache_bytes: int) -> int:
    """As much as no cache holds, in whole pieces, where that leaves most of the memory free."""
    wanted = max(LEAST_READ_BYTES, CACHES_READ * cache_bytes)
    most = max(LEAST_READ_BYTES, system.memory().available_bytes // 4)
    return min(wanted, most) // PIECE_BYTES * PIECE_BYTES
