"""Reads of experts: threads that stay in compiled code from one read to the next, and who waits for them.

A thread of Python's would have to get hold of the interpreter twice for each read, on cores that compute.
What goes wrong here is no affair of compiled code: the slot is given back, and its caller reads, or tells the
error. Nor is a long wait, which an interrupt may have to break off.
"""

from quant.file_system import read_at
from quant.jit import helper, kernel
from quant.kernels.experts import reading_places as at
from quant.kernels.experts.asking import count_one, demand, insist, is_there, lock, open_gate, row_of, unlock
from quant.kernels.experts.worth import clock_of, read, record_of
from quant.pool_barrier import wait
from quant.pool_places import BARRIER_PATIENCE, FUTEX, PARKING
from quant.pool_system import futex_wait_for, nap, now_ns
from quant.registers import i64
from quant.simd import put
from quant.sync import atomic_add, atomic_compare_exchange, atomic_load, atomic_store

NAP_NS = 50_000
LONGEST_WAIT_NS = 200_000_000
"""Who waits longer does it in Python."""


@helper
def most_urgent(head: int) -> int:
    """The slot that is to be read into next."""
    best, least = i64(at.NOTHING), 0
    for slot in range(read(head + at.NUM_SLOTS)):
        row = row_of(head, slot)
        if atomic_load(row + at.STATE * 8) == at.AWAITED:
            urgency = read(row + at.URGENCY * 8)
            if best < 0 or urgency < least:
                best, least = i64(slot), urgency
    return best


@helper
def take(head: int) -> int:
    """Begin the most urgent read; others may be first, and then it is the next one."""
    while True:
        slot = most_urgent(head)
        if slot < 0:
            return slot
        row = row_of(head, slot)
        if atomic_compare_exchange(row + at.STATE * 8, at.AWAITED, at.BEGUN_TO_READ) == at.AWAITED:
            begin = now_ns()
            put(i64, row + at.BEGIN_NS * 8, begin)
            if atomic_add(head + at.NUM_READING, 1) == 0:
                atomic_store(head + at.SINCE_NS, begin)
            return slot


@kernel
def finish(head: int, slot: int, is_read: int) -> None:
    """A read has ended: compute may find the expert, and whoever waits may look."""
    lock(head)
    row, end = row_of(head, slot), now_ns()
    number = read(row + at.NUMBER * 8)
    record = record_of(head, number)
    put(i64, record + at.SLOT * 8, 0)
    put(i64, row + at.END_NS * 8, end)
    since = atomic_load(head + at.SINCE_NS)
    if atomic_add(head + at.NUM_READING, -1) == 1:
        put(i64, head + at.BUSY_NS, read(head + at.BUSY_NS) + end - since)
    if is_read:
        count_one(head + at.READS)
        put(i64, record + at.LOADED * 8, clock_of(head))
        atomic_store(row + at.STATE * 8, at.THERE)
        address = read(head + at.SLOTS) + slot * read(head + at.BLOCK_BYTES)
        atomic_store(read(head + at.WORDS) + number * 8, address)
    else:
        atomic_store(row + at.STATE * 8, at.EMPTY)
        atomic_add(head + at.NUM_FAILED, 1)
    unlock(head)
    open_gate(head + at.ENDED)


@kernel
def serve(head: int) -> int:
    """Read what is asked for, until a slot is found that somebody else has to fill: it is given back.

    `NOTHING` is given back when all is closed, and where a thread cannot sleep and there is nothing to do.
    """
    block = read(head + at.BLOCK)
    while True:
        gate = atomic_load(head + at.ASKED) & -2
        if atomic_load(head + at.IS_CLOSED) != 0:
            return at.NOTHING
        slot = take(head)
        if slot >= 0:
            record = record_of(head, read(row_of(head, slot) + at.NUMBER * 8))
            handle, size = read(record + at.HANDLE * 8), read(head + at.BLOCK_BYTES)
            if handle < 0:
                return slot
            address = read(head + at.SLOTS) + slot * size
            if read_at(handle, address, size, read(record + at.OFFSET * 8)) != size:
                return slot
            finish(head, slot, i64(1))  # no literal: a kernel has code for int64 alone
        elif atomic_load(block + PARKING) == 0:
            return at.NOTHING
        else:
            wait(block, head + at.ASKED, gate + 2, block + BARRIER_PATIENCE)


@kernel
def close(head: int) -> None:
    """Who reads is to leave, and who waits is to look."""
    atomic_store(head + at.IS_CLOSED, 1)
    open_gate(head + at.ASKED)
    open_gate(head + at.ENDED)


@helper
def are_there(head: int, first: int, experts: int, count: int) -> bool:
    num_there = 0
    for i in range(count):
        num_there += is_there(head, first + read(experts + i * 8))
    return num_there == count


@kernel
def await_experts(
    head: int, first: int, experts: int, count: int, gate: int, num_failed: int, until_ns: int
) -> None:
    """Sleep until some experts of a layer are in memory, or a read has failed, or the time is over.

    Where none is named, it is until any read has ended. `gate` and `num_failed` are what they were before the
    caller looked last.
    """
    block = read(head + at.BLOCK)
    while True:
        value = atomic_load(head + at.ENDED)
        is_over = value & -2 != gate if count == 0 else are_there(head, first, experts, count)
        left = until_ns - now_ns()
        if is_over or atomic_load(head + at.NUM_FAILED) != num_failed or left <= 0:
            return
        if atomic_load(head + at.IS_CLOSED) != 0:
            return
        if atomic_load(block + PARKING) == FUTEX:
            if value & 1 or atomic_compare_exchange(head + at.ENDED, value, value | 1) == value:
                futex_wait_for(head + at.ENDED, value | 1, left)
        else:
            nap(min(left, i64(NAP_NS)))


@kernel
def bring(head: int, first: int, experts: int, count: int) -> None:
    """Have experts of a layer there, which may be in vain: a read failed, all is closed, or it takes long."""
    num_failed, begin = atomic_load(head + at.NUM_FAILED), now_ns()
    until = begin + LONGEST_WAIT_NS
    left = demand(head, first, experts, count, i64(1))
    while atomic_load(head + at.IS_CLOSED) == 0 and atomic_load(head + at.NUM_FAILED) == num_failed:
        gate = atomic_load(head + at.ENDED) & -2
        if left > 0:
            left = insist(head, first, experts, count)
        if are_there(head, first, experts, count) or now_ns() >= until:
            break
        await_experts(head, first, experts, count if left == 0 else i64(0), gate, num_failed, until)
    end, number = now_ns(), read(head + at.STALLS)
    span = read(head + at.STALL_SPANS) + number % at.NUM_STALL_SPANS * 16
    put(i64, span, begin)
    put(i64, span + 8, end)
    put(i64, head + at.STALLED_NS, read(head + at.STALLED_NS) + end - begin)
    put(i64, head + at.STALLS, number + 1)
