"""How the threads of a pool wait for each other: at gates, one of which is the barrier.

A gate is an int64 that is counted up by 2; who waits at it has a number for which he waits. Its lowest bit
says that somebody sleeps there, so that counting costs a call of the system only then. Who waits spins first,
then lets others have the core, then parks. The barrier is a gate that every thread of the job counts up, so
a meeting moves one line of memory between the cores and no more.

The barrier also finds out whether a core was taken by another process. A thread that waits long says since
when; the one that comes last asks the system whether it was pushed off its core meanwhile, and if so the
wait is booked as stolen. Work that is merely uneven makes others wait too, but steals nothing.
"""

from quant.jit import helper, kernel
from quant.pool_places import (
    BARRIER_PATIENCE,
    CROWDED,
    DISPLACED,
    FUTEX,
    GATE,
    LATE,
    LATE_SINCE,
    LINE,
    PARKING,
    STOLEN_NS,
    THREADS,
)
from quant.pool_system import futex_wait, futex_wake, nap, now_ns, times_displaced, yield_core
from quant.registers import i64
from quant.sync import atomic_add, atomic_compare_exchange, atomic_load, atomic_store, pause

QUICK_TURNS = 200  # a few µs of spinning, without a look at the clock
SURELY_TAKEN_NS = 200_000  # a yield as long as this
SURELY_STOLEN_NS = 1_000_000  # where the system does not count, a wait as long as this is taken for theft
FIRST_NAP_NS, LONGEST_NAP_NS = 20_000, 1_000_000


@helper
def is_shut(gate: int, number: int) -> bool:
    return atomic_load(gate) < number


@helper
def count_up(gate: int) -> int:
    """Count a gate up; it gives what the gate was before, with its lowest bit."""
    return atomic_add(gate, 2)


@kernel
def wake(gate: int) -> None:
    """Wake who sleeps at a gate; who still has to wait says again that he sleeps."""
    value = atomic_load(gate)
    while value & 1:
        atomic_compare_exchange(gate, value, value & -2)
        value = atomic_load(gate)
    futex_wake(gate)


@helper
def wait(block: int, gate: int, number: int, patience: int) -> int:
    """Wait until a gate has come to a number; not 0 if this thread parked."""
    turns = 0
    while turns < QUICK_TURNS and is_shut(gate, number):
        pause()
        turns += 1
    return wait_long(block, gate, number, patience) if is_shut(gate, number) else 0


@kernel
def wait_long(block: int, gate: int, number: int, patience: int) -> int:
    """`wait`, after the quick turns. Whoever is late for the barrier is told so."""
    spin_ns, yield_ns = atomic_load(patience), atomic_load(patience + 8)
    start = now_ns()
    waited = 0
    while is_shut(gate, number) and waited < spin_ns:
        for _ in range(16):
            pause()
        waited = now_ns() - start
    at_barrier = gate == block + GATE
    if at_barrier and is_shut(gate, number):
        atomic_store(block + LATE_SINCE, start)
        atomic_store(block + LATE, number)
    # Who yields a wanted core gets it back after a time slice, who sleeps as soon as he is woken.
    while is_shut(gate, number) and waited < yield_ns and not (at_barrier and atomic_load(block + CROWDED)):
        before = waited
        yield_core()
        waited = now_ns() - start
        if at_barrier and waited - before > SURELY_TAKEN_NS:
            atomic_store(block + CROWDED, 1)
    parked = 0
    length = FIRST_NAP_NS
    while True:
        value = atomic_load(gate)
        if value >= number:
            return parked
        parked = 1
        if atomic_load(block + PARKING) == FUTEX:
            if value & 1 or atomic_compare_exchange(gate, value, value | 1) == value:
                futex_wait(gate, value | 1)
        else:
            nap(length)
            length = min(2 * length, LONGEST_NAP_NS)


@kernel
def own_up(block: int, thread: int) -> None:
    """Others waited long for this thread: book the time as stolen if it was pushed off its core."""
    waited = now_ns() - atomic_load(block + LATE_SINCE)
    place = block + THREADS + thread * LINE + DISPLACED
    count = times_displaced()
    stolen = waited > SURELY_STOLEN_NS if count < 0 else count != atomic_load(place)
    atomic_store(place, count)
    if stolen:
        atomic_add(block + STOLEN_NS, waited)


@helper
def excuse(block: int, thread: int) -> None:
    """Whoever waited for this thread did so for a disk's sake: what pushed it off its core stole nothing."""
    atomic_store(block + THREADS + thread * LINE + DISPLACED, times_displaced())


@helper
def arrive(block: int, thread: int, num_threads: int) -> int:
    """Count this thread at the barrier, whose last one wakes the others; it gives the number to wait for."""
    before = count_up(block + GATE)
    count, all_of_them = before & -2, 2 * num_threads
    number = (count // all_of_them + 1) * all_of_them
    if count + 2 == number:
        if before & 1:
            wake(block + GATE)
        if atomic_load(block + LATE) == number:
            own_up(block, i64(thread))  # no literal: a kernel has code for int64 alone
    return number


@helper
def barrier(block: int, thread: int, num_threads: int) -> None:
    """Wait until all threads of the job are here. What each wrote before it, all see after it."""
    if num_threads > 1:
        number = arrive(block, thread, num_threads)
        wait(block, block + GATE, number, block + BARRIER_PATIENCE)
