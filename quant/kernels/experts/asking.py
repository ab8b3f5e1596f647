"""Asking for experts: which slot each is given, and who leaves it. All of it is done under one lock.

What is demanded is waited for, and nobody takes it away until something else is demanded. A wish takes no
slot of what is in use, demanded, or due; where it finds none it is dropped. What is demanded takes those of
experts that are due, too, and those of wishes that are not on their way.
"""

from quant.jit import helper, kernel
from quant.kernels.experts import reading_places as at
from quant.kernels.experts.worth import clock_of, read, record_of, refresh, worth_of
from quant.pool_barrier import count_up, wake
from quant.pool_system import yield_core
from quant.registers import i64
from quant.simd import put
from quant.sync import atomic_compare_exchange, atomic_load, atomic_store, pause

DUE_IS_WORTH = 1e12
"""More than any policy says."""
QUICK_TURNS = 100


@helper
def lock(head: int) -> None:
    turns = 0
    while atomic_compare_exchange(head + at.LOCK, 0, 1) != 0:
        turns += 1
        if turns < QUICK_TURNS:
            pause()
        else:
            yield_core()


@helper
def unlock(head: int) -> None:
    atomic_store(head + at.LOCK, 0)


@helper
def row_of(head: int, slot: int) -> int:
    return head + at.ROWS + slot * (at.ROW_PLACES * 8)


@helper
def word_of(head: int, number: int) -> int:
    return read(head + at.WORDS) + number * 8


@helper
def is_there(head: int, number: int) -> bool:
    return atomic_load(word_of(head, number)) != 0


@helper
def count_one(address: int) -> None:
    put(i64, address, read(address) + 1)


@helper
def open_gate(gate: int) -> None:
    if count_up(gate) & 1:
        wake(gate)


@helper
def is_unvisited(head: int, row: int) -> bool:
    """Whether a wish brought it, and nobody has visited it since."""
    number = read(row + at.NUMBER * 8)
    loaded = read(record_of(head, number) + at.LOADED * 8)
    return read(row + at.IS_WISH * 8) != 0 and read(read(head + at.LAST_VISITS) + number * 8) <= loaded


@kernel
def empty_slot(head: int) -> int:
    for slot in range(read(head + at.NUM_SLOTS)):
        if atomic_load(row_of(head, slot) + at.STATE * 8) == at.EMPTY:
            return slot
    return at.NOTHING


@kernel
def least_worth(head: int, urgency: int) -> int:
    """The slot of the expert that may leave for another and is worth least."""
    best, least = i64(at.NOTHING), 0.0
    clock, serial = clock_of(head), read(head + at.SERIAL)
    for slot in range(read(head + at.NUM_SLOTS)):
        row = row_of(head, slot)
        number = read(row + at.NUMBER * 8)
        record = record_of(head, number)
        is_due = read(record + at.DUE * 8) > clock
        if (
            atomic_load(row + at.STATE * 8) == at.THERE
            and atomic_load(word_of(head, number)) & 1 == 0
            and read(record + at.WANTED * 8) != serial
            and not (is_due and urgency != at.NOW)
        ):
            worth = worth_of(head, number) + (DUE_IS_WORTH if is_due else 0.0)
            if best < 0 or worth < least:
                best, least = i64(slot), worth
    return best


@kernel
def slot_of_a_wish(head: int) -> int:
    """The slot of the wish that is needed last and not on its way; that wish is dropped."""
    while True:
        best, latest = i64(at.NOTHING), 0
        for slot in range(read(head + at.NUM_SLOTS)):
            row = row_of(head, slot)
            urgency = read(row + at.URGENCY * 8)
            is_open = atomic_load(row + at.STATE * 8) == at.AWAITED and read(row + at.IS_WISH * 8) != 0
            if is_open and (best < 0 or urgency > latest):
                best, latest = i64(slot), urgency
        if best < 0:
            return best
        row = row_of(head, best)
        if atomic_compare_exchange(row + at.STATE * 8, at.AWAITED, at.EMPTY) == at.AWAITED:
            put(i64, record_of(head, read(row + at.NUMBER * 8)) + at.SLOT * 8, 0)
            count_one(head + at.DROPPED)
            return best


@kernel
def find_slot(head: int, urgency: int) -> int:
    """A slot for an expert, out of which another may have been taken; or `NOTHING`."""
    slot = empty_slot(head)
    if slot >= 0:
        return slot
    refresh(head)
    while True:
        slot = least_worth(head, urgency)
        if slot < 0:
            return slot_of_a_wish(head) if urgency == at.NOW else slot
        row = row_of(head, slot)
        word = word_of(head, read(row + at.NUMBER * 8))
        address = atomic_load(word)
        # Compute may take it into use at this moment, by the same exchange.
        if address & 1 == 0 and atomic_compare_exchange(word, address, 0) == address:
            if is_unvisited(head, row):
                count_one(head + at.WASTED)
            atomic_store(row + at.STATE * 8, at.EMPTY)
            return slot


@kernel
def place(head: int, number: int, urgency: int) -> int:
    """Have an expert read, if it is neither there nor on its way; 0 where there is no slot for it."""
    record = record_of(head, number)
    if is_there(head, number):
        return 1
    slot = read(record + at.SLOT * 8) - 1
    if slot >= 0:
        row = row_of(head, slot)
        put(i64, row + at.URGENCY * 8, min(urgency, read(row + at.URGENCY * 8)))
        return 1
    slot = find_slot(head, urgency)
    if slot < 0:
        return 0
    row = row_of(head, slot)
    put(i64, row + at.URGENCY * 8, urgency)
    put(i64, row + at.NUMBER * 8, number)
    put(i64, row + at.IS_WISH * 8, 0 if urgency == at.NOW else 1)
    put(i64, record + at.SLOT * 8, slot + 1)
    atomic_store(row + at.STATE * 8, at.AWAITED)
    open_gate(head + at.ASKED)
    return 1


@helper
def place_all(head: int, first: int, experts: int, count: int) -> int:
    left = 0
    for i in range(count):
        if place(head, first + read(experts + i * 8), i64(at.NOW)) == 0:
            left += 1
    return left


@helper
def count_visit(head: int, number: int) -> None:
    slot = read(record_of(head, number) + at.SLOT * 8) - 1
    if slot >= 0 and read(row_of(head, slot) + at.IS_WISH * 8) != 0:
        count_one(head + at.LATE_HITS)
        put(i64, row_of(head, slot) + at.IS_WISH * 8, 0)
    else:
        count_one(head + at.MISSES)


@kernel
def demand(head: int, first: int, experts: int, count: int, is_visit: int) -> int:
    """Have experts of a layer there, and stay; how many have no slot yet."""
    lock(head)
    serial = read(head + at.SERIAL) + 1
    put(i64, head + at.SERIAL, serial)
    for i in range(count):
        put(i64, record_of(head, first + read(experts + i * 8)) + at.WANTED * 8, serial)
    for i in range(count):
        number = first + read(experts + i * 8)
        if is_visit and not is_there(head, number):
            count_visit(head, number)
    left = place_all(head, first, experts, count)
    unlock(head)
    return left


@kernel
def insist(head: int, first: int, experts: int, count: int) -> int:
    """Look again for slots for what was demanded."""
    lock(head)
    left = place_all(head, first, experts, count)
    unlock(head)
    return left


@kernel
def wish(head: int, wishes: int, count: int) -> None:
    """Have experts read ahead, as far as there are slots. Of each: its number, and in how many passes."""
    lock(head)
    clock = clock_of(head)
    for i in range(count):
        due = record_of(head, read(wishes + i * 16)) + at.DUE * 8
        put(i64, due, max(read(due), clock + read(wishes + i * 16 + 8)))
    for i in range(count):
        if place(head, read(wishes + i * 16), read(wishes + i * 16 + 8)) == 0:
            count_one(head + at.DROPPED)
    unlock(head)


@kernel
def wish_decided(head: int) -> None:
    """Have read what is decided and not there."""
    lock(head)
    clock = clock_of(head)
    for number in range(read(head + at.NUM_ALL)):
        record = record_of(head, number)
        if read(record + at.DECIDED * 8) != 0 and not is_there(head, number):
            ahead = max(read(record + at.DUE * 8) - clock, 0)
            if place(head, i64(number), ahead) == 0:
                count_one(head + at.DROPPED)
    unlock(head)


@kernel
def borrow(head: int, number: int) -> int:
    """Take an expert into use for who reads it without compiled code; its address, or 0."""
    word = word_of(head, number)
    value = atomic_load(word)
    if value & 1 or value == 0 or atomic_compare_exchange(word, value, value | 1) != value:
        return 0
    return value


@kernel
def give_back(head: int, number: int) -> None:
    """It is no longer in use, and whoever found no slot may look again."""
    word = word_of(head, number)
    atomic_store(word, atomic_load(word) & -2)
    open_gate(head + at.ENDED)
