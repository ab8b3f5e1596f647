"""What this machine does in a second, measured on the engine's own pool of threads: read memory, multiply
ternary weights that lie in a cache, and let its threads meet."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.packing import PackedTernary, codes_shape, ternary_scales_shape
from quant.pool import Pool
from quant.selfcheck import chosen
from runtime.arena import aligned_zeros
from runtime.building import steps
from runtime.building.workspace import Workspace
from runtime.machine_kernels import ADDRESS, NUM_PLACES, PIECE_BYTES, RESULT_BYTES, RESULTS, read_memory
from runtime.program import Count, Program, Step, Value
from runtime.worker import run_records

Bytes: TypeAlias = NDArray[np.uint8]

LEAST_READ_BYTES = 64 * 2**20
CACHES_READ = 4
"""Reading this many times what the caches hold finds nothing there."""
_SECONDS_A_FIGURE = 0.2
_FEWEST, _MOST = 3, 200
_MEETINGS = 1000
_PRODUCTS = 8
_ROWS, _INPUTS = 1024, 1024
"""A matrix of 256 KiB, which lies in any second cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """Medians of some passes each."""

    threads: int
    threads_reason: str
    read_bytes_per_s: float
    """Memory from end to end, by all threads."""
    products_per_s: float
    """Weights times activations of one token, from a cache, by all threads."""
    form: str
    """The kernel's form that did them."""
    meeting_s: float
    """From an operation of a program to the next, when there is nothing to do."""
    was_shared: bool
    """Another process took a core meanwhile, and the pool did with fewer threads."""


def measure_speeds(*, num_threads: int | None = None, cache_bytes: int) -> Speeds:
    """Half a second or so; kernels that this machine has never run are compiled before."""
    read_bytes = max(LEAST_READ_BYTES, CACHES_READ * cache_bytes) // PIECE_BYTES * PIECE_BYTES
    one = Count(cell=np.ones(1, dtype=np.int64))
    memory = aligned_zeros(read_bytes)
    memory[:: PIECE_BYTES // 16] = 1  # a page that nobody has written is no memory yet
    with Pool(run_records, num_threads=num_threads) as pool:
        fewest = pool.num_threads

        def seconds(program: Program) -> float:
            nonlocal fewest
            found = median_seconds(lambda: pool.run(program.job))
            fewest = min(fewest, pool.usable_threads)
            return found

        results = aligned_zeros(read_bytes // PIECE_BYTES * RESULT_BYTES)
        reading = Program([(one, (_reading(memory, results),))], tokens=one)
        read_s = seconds(reading)
        cell = np.zeros(2, dtype=np.int64)
        idle = steps.copy_integer(cell.ctypes.data, target=cell.ctypes.data + 8)
        meeting = Program([(one, (idle,))] * _MEETINGS, tokens=one)
        meeting_s = seconds(meeting) / _MEETINGS
        matrix, workspace = _matrix(), Workspace(num_rows=1)
        acts, y = workspace.int8("x", _INPUTS), workspace.rows("y", _ROWS)
        product = steps.ternary(matrix, acts=acts, y=y)
        one.steps.append(product)
        multiplying = Program([(one, (product,))] * _PRODUCTS, tokens=one)
        multiplying.set_tokens(1)
        product_s = max(seconds(multiplying) / _PRODUCTS - meeting_s, 1e-9)
        return Speeds(
            threads=pool.num_threads,
            threads_reason=pool.reason,
            read_bytes_per_s=read_bytes / read_s,
            products_per_s=_ROWS * _INPUTS / product_s,
            form=chosen("ternary_matmul").form,
            meeting_s=meeting_s,
            was_shared=fewest < pool.num_threads,
        )


def median_seconds(action: Callable[[], None], *, seconds: float = _SECONDS_A_FIGURE) -> float:
    """The median time of an action that is done again and again, the first time left out."""
    action()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < _FEWEST or (time.perf_counter() < end and len(found) < _MOST):
        begin = time.perf_counter()
        action()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def _reading(memory: Bytes, results: Bytes) -> Step:
    table: dict[int, Value] = {ADDRESS: memory.ctypes.data, RESULTS: results.ctypes.data}
    return Step(kernel=read_memory, arguments=table, num_places=NUM_PLACES, units=memory.size // PIECE_BYTES)


def _matrix() -> PackedTernary:
    """Weights of which every one is 0; what they are takes no time."""
    codes = np.full(codes_shape(_ROWS, _INPUTS, bits=2), 0b01010101, dtype=np.uint8)
    scales = np.ones(ternary_scales_shape(_ROWS, _INPUTS), dtype=np.float16)
    return PackedTernary(codes=codes, scales=scales, num_rows=_ROWS, num_inputs=_INPUTS)
