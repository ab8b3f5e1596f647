"""Workers for the tests and benchmarks of the pool."""

import numpy as np
from numpy.typing import NDArray

from quant.activations import quantize_activations
from quant.indirect import call_kernel
from quant.jit import kernel
from quant.kernels.arguments import NUM_ARGUMENTS
from quant.kernels.calls import Call, ternary_call
from quant.kernels.operation import Kernel
from quant.kernels.ternary import plain
from quant.native import address_of
from quant.packing import pack_ternary
from quant.pool_barrier import barrier
from quant.pool_system import now_ns
from quant.registers import i64
from quant.simd import load
from quant.sync import atomic_add, atomic_load, atomic_store, pause
from quant.ternary import quantize_ternary, ternary_matmul

STEPS, WRONG, ACTIVE, CELLS = 0, 1, 2, 16


@kernel
def meet(table: int, thread: int, num_threads: int, block: int) -> None:
    """In each step all write their own cell, meet, and look at the cells of all the others."""
    cells = table + CELLS * 8
    atomic_store(table + ACTIVE * 8, num_threads)
    for step in range(1, load(i64, table + STEPS * 8) + 1):
        atomic_store(cells + thread * 128, step)
        barrier(block, thread, num_threads)
        for other in range(num_threads):
            if atomic_load(cells + other * 128) != step:
                atomic_add(table + WRONG * 8, 1)
        barrier(block, thread, num_threads)


@kernel
def linger(table: int, thread: int, num_threads: int, block: int) -> None:
    """Tell that the job has begun, and be busy for as many ns as the table says."""
    end = now_ns() + load(i64, table)
    atomic_store(table + 8, 1)
    while now_ns() < end:
        pause()


@kernel
def lag(table: int, thread: int, num_threads: int, block: int) -> None:
    """Thread 1 works before every barrier, for as many ns as the table says, and the others do not."""
    for _ in range(load(i64, table + 8)):
        if thread == 1:
            end = now_ns() + load(i64, table)
            while now_ns() < end:
                pause()
        barrier(block, thread, num_threads)


@kernel
def chain(table: int, thread: int, num_threads: int, block: int) -> None:
    """Products one after the other, each shared by all threads."""
    count, calls, units = load(i64, table), load(i64, table + 8), load(i64, table + 16)
    for i in range(count):
        first, last = units * thread // num_threads, units * (thread + 1) // num_threads
        call_kernel(load(i64, table + 24), calls + i * NUM_ARGUMENTS * 8, first, last)
        barrier(block, thread, num_threads)


class Products:
    """A table for `chain`: ternary matrices of one shape, each times tokens of its own."""

    def __init__(
        self, *, count: int, rows: int, inputs: int, tokens: int = 1, kernel: Kernel = plain.matmul
    ) -> None:
        rng = np.random.default_rng(5)
        self.calls: list[Call] = []
        expected: list[NDArray[np.float32]] = []
        for _ in range(count):
            weights = quantize_ternary(rng.standard_normal((rows, inputs), dtype=np.float32))
            acts = quantize_activations(rng.standard_normal((tokens, inputs), dtype=np.float32))
            self.calls.append(ternary_call(pack_ternary(weights), acts))
            expected.append(ternary_matmul(weights, acts))
        self.expected = np.stack(expected)
        self._rows = rows
        self._tables = np.stack([call.table for call in self.calls])
        places = [count, self._tables.ctypes.data, self.calls[0].units, address_of(kernel)]
        self.table = np.array(places, dtype=np.int64)

    @property
    def address(self) -> int:
        return self.table.ctypes.data

    def poison(self) -> None:
        for call in self.calls:
            call.y.fill(np.nan)

    def results(self) -> NDArray[np.float32]:
        return np.stack([call.y[:, : self._rows] for call in self.calls])


def meeting(*, steps: int) -> NDArray[np.int64]:
    """A table for `meet`."""
    table = np.zeros(CELLS + 16 * 16, dtype=np.int64)
    table[STEPS] = steps
    return table
