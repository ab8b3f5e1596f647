"""How fast this machine reads memory that no cache holds, measured again and again beside something else."""

import statistics
import time

import numpy as np

from quant.pool import Pool
from runtime import system
from runtime.arena import aligned_zeros
from runtime.machine import bytes_to_read
from runtime.machine_kernels import ADDRESS, NUM_PLACES, PIECE_BYTES, RESULT_BYTES, RESULTS, read_memory
from runtime.program import Count, Program, Step

_READS = 3
"""Passes in one go."""


class Reading:
    """Reads with the threads that run a model, so that both do without a core that another process takes."""

    def __init__(self, pool: Pool) -> None:
        num_bytes = bytes_to_read(system.cache_bytes())
        self._memory = aligned_zeros(num_bytes)
        self._memory[:: PIECE_BYTES // 16] = 1  # a page that nobody has written is no memory yet
        self._results = aligned_zeros(num_bytes // PIECE_BYTES * RESULT_BYTES)
        one = Count(cell=np.ones(1, dtype=np.int64))
        step = Step(
            kernel=read_memory,
            arguments={ADDRESS: self._memory.ctypes.data, RESULTS: self._results.ctypes.data},
            num_places=NUM_PLACES,
            units=num_bytes // PIECE_BYTES,
        )
        self._program = Program([(one, (step,))], tokens=one)
        self._pool = pool
        self._pool.run(self._program.job)

    def bytes_per_s(self) -> float:
        """What it is now: the median of some passes."""
        rates: list[float] = []
        for _ in range(_READS):
            begin = time.perf_counter()
            self._pool.run(self._program.job)
            rates.append(self._memory.size / (time.perf_counter() - begin))
        return statistics.median(rates)
