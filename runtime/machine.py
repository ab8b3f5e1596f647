"""How fast this machine reads memory, measured on the engine's own pool of threads."""

import time
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.pool import Pool
from runtime import system
from runtime.arena import aligned_zeros
from runtime.machine_kernels import ADDRESS, NUM_PLACES, PIECE_BYTES, RESULT_BYTES, RESULTS, read_memory
from runtime.program import Count, Program, Step, Value
from runtime.timing import Times
from runtime.worker import run_records

Bytes: TypeAlias = NDArray[np.uint8]

LEAST_READ_BYTES = 64 * 2**20
CACHES_READ = 4
"""Reading this many times what the caches hold finds nothing there."""
_SECONDS = 0.2
_FEWEST, _MOST = 3, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """What was measured, and by whom."""

    threads: int
    threads_reason: str
    read_bytes_per_s: float
    """Memory from end to end, by all threads: a median of some passes."""
    was_shared: bool
    """Other processes took cores, and the figure is of fewer threads."""


def bytes_to_read(cache_bytes: int) -> int:
    """As much as no cache holds, in whole pieces, where that leaves most of the memory free."""
    wanted = max(LEAST_READ_BYTES, CACHES_READ * cache_bytes)
    most = max(LEAST_READ_BYTES, system.memory().available_bytes // 4)
    return min(wanted, most) // PIECE_BYTES * PIECE_BYTES


def measure_speeds(*, num_threads: int | None = None, cache_bytes: int) -> Speeds:
    """A fifth of a second or so; kernels that this machine has never run are compiled before."""
    read_bytes = bytes_to_read(cache_bytes)
    one = Count(cell=np.ones(1, dtype=np.int64))
    memory = aligned_zeros(read_bytes)
    memory[:: PIECE_BYTES // 16] = 1  # a page that nobody has written is no memory yet
    results = aligned_zeros(read_bytes // PIECE_BYTES * RESULT_BYTES)
    with Pool(run_records, num_threads=num_threads) as pool:
        times = _times(pool, Program([(one, (_reading(memory, results),))], tokens=one))
        return Speeds(
            threads=pool.num_threads,
            threads_reason=pool.reason,
            read_bytes_per_s=read_bytes / times.median_s,
            was_shared=times.were_shared,
        )


def _times(pool: Pool, program: Program) -> Times:
    """The first time is left out: it starts threads and touches memory."""
    pool.run(program.job)
    times = Times()
    end = time.perf_counter() + _SECONDS
    while len(times) < _FEWEST or (time.perf_counter() < end and len(times) < _MOST):
        times.take(
            lambda: pool.run(program.job), has_all_threads=lambda: pool.usable_threads == pool.num_threads
        )
    return times


def _reading(memory: Bytes, results: Bytes) -> Step:
    table: dict[int, Value] = {ADDRESS: memory.ctypes.data, RESULTS: results.ctypes.data}
    return Step(kernel=read_memory, arguments=table, num_places=NUM_PLACES, units=memory.size // PIECE_BYTES)
