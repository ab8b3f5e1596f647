"""The native side of a pool: what a parked thread does, how a job is given out, to how many.

All of it works on one block of memory, the control block, which begins with the barrier's block. Jobs are
guarded in here and not by a lock of Python's, since an interrupt may come between any two steps of Python.
"""

from quant.jit import helper, kernel
from quant.pool_barrier import arrive, barrier, count_up, wait, wake
from quant.pool_places import (
    ACTIVE,
    BUSY,
    CALM,
    CLAIMED,
    CLOSED,
    CROWDED,
    DISPLACED,
    FUTEX,
    GATE,
    HOLD_NS,
    IDLE,
    LATE,
    LEAVE,
    LINE,
    LONGEST_HOLD_NS,
    NUM_THREADS,
    OWN_GATE,
    PARKING,
    PROBE_AT_NS,
    REST_PATIENCE,
    SHORTEST_HOLD_NS,
    START_NS,
    STATE,
    STOLEN_NS,
    TABLE,
    THREADS,
    UNSTARTED,
    USABLE,
    WINDOW_NS,
    WINDOW_STOLEN_NS,
    WORKER,
)
from quant.pool_system import call_worker, nap, now_ns, times_displaced
from quant.registers import i64
from quant.sync import atomic_add, atomic_compare_exchange, atomic_exchange, atomic_load, atomic_store

FULL_WINDOW_NS = 10_000_000  # a few time slices of the system
TOO_MUCH = 4  # a quarter of the time stolen, and one thread less is better
LOSS_SHARE, LONGEST_PENALTY_NS = (
    32,
    20_000_000_000,
)  # what a probe lost is a small part of the time to the next
CALM_WINDOWS = 20
CLOSING_NAP_NS = 50_000
LATE_START_NS = 300_000  # a thread that was woken and came this late had found its core taken


@kernel
def park(block: int, thread: int) -> None:
    """Life of a thread of the pool: wait at its gate, take part in the job, until it is told to leave."""
    line = block + THREADS + thread * LINE
    if atomic_compare_exchange(line + CLAIMED, 0, 1) != 0:
        return  # an interrupted start was made again: one thread is enough
    atomic_store(line + DISPLACED, times_displaced())
    number = i64(0)  # no literal: a kernel has code for int64 alone
    while True:
        number += 2
        parked = wait(block, line + OWN_GATE, number, block + REST_PATIENCE)
        if atomic_load(block + LEAVE) != 0:
            return
        if parked and atomic_load(block + PARKING) == FUTEX:
            late = now_ns() - atomic_load(block + START_NS)
            if late > LATE_START_NS:
                atomic_add(block + STOLEN_NS, late)
        active = atomic_load(block + ACTIVE)
        call_worker(atomic_load(block + WORKER), atomic_load(block + TABLE), thread, active, block)
        arrive(block, thread, active)


@helper
def open_gates(block: int, num_threads: int) -> None:
    for thread in range(1, num_threads):
        gate = block + THREADS + thread * LINE + OWN_GATE
        if count_up(gate) & 1:
            wake(gate)


@helper
def less_or_more(block: int, start: int) -> int:
    """How many threads this job gets: one more than before, when it is time to try."""
    usable = atomic_load(block + USABLE)
    if usable < atomic_load(block + NUM_THREADS) and start >= atomic_load(block + PROBE_AT_NS):
        usable += 1
        atomic_store(block + USABLE, usable)
        atomic_store(block + PROBE_AT_NS, start + atomic_load(block + HOLD_NS))
        atomic_store(block + WINDOW_NS, 0)
        atomic_store(block + WINDOW_STOLEN_NS, 0)
    return usable


@kernel
def keep_books(block: int, start: int, active: int) -> None:
    """After a job of several threads: take one off if too much of the time was stolen."""
    end = now_ns()
    window = atomic_load(block + WINDOW_NS) + end - start
    stolen = atomic_load(block + WINDOW_STOLEN_NS) + atomic_exchange(block + STOLEN_NS, 0)
    if stolen * TOO_MUCH > max(window, FULL_WINDOW_NS):
        hold = atomic_load(block + HOLD_NS)
        atomic_store(block + USABLE, active - 1)
        # The first time it may have been chance.
        penalty = min(LOSS_SHARE * stolen, LONGEST_PENALTY_NS) if hold > SHORTEST_HOLD_NS else 0
        atomic_store(block + PROBE_AT_NS, end + max(hold, penalty))
        atomic_store(block + HOLD_NS, min(2 * hold, LONGEST_HOLD_NS))
        atomic_store(block + CALM, 0)
        window = stolen = 0
    elif window > FULL_WINDOW_NS:
        calm = atomic_load(block + CALM) + 1
        atomic_store(block + CALM, calm)
        if calm > CALM_WINDOWS:
            atomic_store(block + HOLD_NS, SHORTEST_HOLD_NS)
        window = stolen = 0
    atomic_store(block + WINDOW_NS, window)
    atomic_store(block + WINDOW_STOLEN_NS, stolen)


@kernel
def launch(block: int, table: int) -> int:
    """Do a job with the caller as thread 0. It gives the state that was found; IDLE says that it is done."""
    found = atomic_compare_exchange(block + STATE, IDLE, BUSY)
    if found != IDLE:
        return found
    start = now_ns()
    active = less_or_more(block, start)
    worker = atomic_load(block + WORKER)
    if active > 1:
        atomic_store(block + TABLE, table)
        atomic_store(block + ACTIVE, active)
        atomic_store(block + START_NS, start)
        atomic_store(block + GATE, 0)
        atomic_store(block + LATE, 0)
        atomic_store(block + CROWDED, 0)
        # Any thread may be the caller, and what pushed it off its core between two jobs stole nothing.
        atomic_store(block + THREADS + DISPLACED, times_displaced())
        open_gates(block, active)
        call_worker(worker, table, 0, active, block)
        barrier(block, 0, active)
        keep_books(block, start, active)
    else:
        call_worker(worker, table, 0, 1, block)
    atomic_store(block + STATE, IDLE)
    return IDLE


@kernel
def admit(block: int) -> None:
    """The threads are there: jobs may come, unless the pool was closed meanwhile."""
    atomic_compare_exchange(block + STATE, UNSTARTED, IDLE)


@kernel
def retire(block: int) -> None:
    """Wait for a job that is being done, refuse others, and let the threads leave."""
    while True:
        found = atomic_load(block + STATE)
        if found == CLOSED:
            return
        if found != BUSY and atomic_compare_exchange(block + STATE, found, CLOSED) == found:
            break
        nap(CLOSING_NAP_NS)
    atomic_store(block + LEAVE, 1)
    open_gates(block, atomic_load(block + NUM_THREADS))
