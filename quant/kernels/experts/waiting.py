"""Experts that may lie on disk: those of a pass are taken into use where they are in memory.

What takes an expert away from memory does so by the same compare and exchange as what takes it into use, so
one of them learns that the other was first. Where an expert of one token's is missing, it is asked for and
waited for here, if that is allowed; else, and where a read fails or takes long, the program stops and its
caller brings it.
"""

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.experts import places as at
from quant.kernels.experts import reading_places as desk
from quant.kernels.experts import waiting_places as here
from quant.kernels.experts.reading import bring
from quant.kernels.experts.worth import record_of
from quant.kernels.residual.parts import load_part, store_part
from quant.pool_barrier import count_up, wait, wake
from quant.registers import i64
from quant.simd import load, put
from quant.sync import atomic_compare_exchange, atomic_load, atomic_store


@helper
def read(address: int) -> int:
    return load(i64, address)


@helper
def word_of(arguments: int, expert: int) -> int:
    return argument(arguments, here.WORDS) + expert * 8


@helper
def take(word: int) -> int:
    """Take an expert into use; its address, or 0."""
    value = atomic_load(word)
    if value == 0 or value & 1:
        return value & -2
    return value if atomic_compare_exchange(word, value, value | 1) == value else i64(0)


@helper
def close_decisions(arguments: int) -> None:
    """Count which of those that were decided on for this pass are visited: all, if the program is right."""
    head, decisions = read(argument(arguments, here.DESK)), argument(arguments, here.DECISIONS)
    if head == 0 or read(decisions + desk.IS_OPEN * 8) == 0:
        return
    count = read(argument(arguments, here.NUM_VISITED))
    both = 0
    for i in range(count):
        number = argument(arguments, here.FIRST) + read(argument(arguments, here.VISITED) + i * 8)
        decided = record_of(head, number) + desk.DECIDED * 8
        both += read(decided)
        put(i64, decided, 0)
    put(i64, decisions + desk.VISITED * 8, read(decisions + desk.VISITED * 8) + count)
    put(i64, decisions + desk.BOTH * 8, read(decisions + desk.BOTH * 8) + both)
    put(i64, decisions + desk.IS_OPEN * 8, 0)


@kernel
def note(arguments: int, first: int, last: int) -> None:
    """Count the pass and its visits, and tell who waits for news. There is one unit of work."""
    for _ in range(first, last):
        close_decisions(arguments)
        clock = read(argument(arguments, here.CLOCK)) + 1
        for i in range(read(argument(arguments, here.NUM_VISITED))):
            offset = read(argument(arguments, here.VISITED) + i * 8) * 8
            put(i64, argument(arguments, here.LAST_VISITS) + offset, clock)
            visits = argument(arguments, here.VISITS) + offset
            put(i64, visits, read(visits) + 1)
        put(i64, argument(arguments, here.BEGUN), clock)
        atomic_store(argument(arguments, here.PLACE), argument(arguments, here.NUMBER))
        atomic_store(argument(arguments, here.CLOCK), clock)
        news = argument(arguments, here.NEWS)
        if atomic_load(argument(arguments, here.HEEDED)) != 0 and count_up(news) & 1:
            wake(news)


@helper
def wait_for_one_token(arguments: int) -> None:
    """Have a token's experts there. Of many tokens' some are computed while others are read: elsewhere."""
    head, visited = read(argument(arguments, here.DESK)), argument(arguments, here.VISITED)
    count = read(argument(arguments, here.NUM_VISITED))
    if head == 0 or count > argument(arguments, here.NUM_CHOSEN):
        return
    is_away = False
    for i in range(count):
        if atomic_load(word_of(arguments, read(visited + i * 8))) == 0:
            is_away = True
    if is_away and atomic_load(argument(arguments, here.IS_PATIENT)) != 0:
        bring(head, argument(arguments, here.FIRST), visited, count)


@kernel
def hold(arguments: int, first: int, last: int) -> None:
    """Take the visited experts into use and write where they lie into their tables; stop if one is away."""
    for _ in range(first, last):
        wait_for_one_token(arguments)
        missing = 0
        for i in range(read(argument(arguments, here.NUM_VISITED))):
            expert = read(argument(arguments, here.VISITED) + i * 8)
            address = take(word_of(arguments, expert))
            if address == 0:
                missing += 1
            block = argument(arguments, here.TABLES) + expert * at.BLOCK_BYTES
            parts = argument(arguments, here.PARTS)
            for part in range(argument(arguments, here.NUM_PARTS)):
                pair = parts + part * 16
                put(i64, block + read(pair), address + read(pair + 8))
        if missing > 0:
            atomic_store(argument(arguments, here.STOP), argument(arguments, here.NUMBER) + 1)


@kernel
def release(arguments: int, first: int, last: int) -> None:
    """The visited experts are no longer in use."""
    for _ in range(first, last):
        for i in range(read(argument(arguments, here.NUM_VISITED))):
            word = word_of(arguments, read(argument(arguments, here.VISITED) + i * 8))
            atomic_store(word, atomic_load(word) & -2)


@kernel
def stand_in(arguments: int, first: int, last: int) -> None:
    """The shared expert in place of experts that are away; `first` and `last` count tokens."""
    num_chosen, width = argument(arguments, here.NUM_CHOSEN), argument(arguments, here.WIDTH)
    for token in range(first, last):
        shared = argument(arguments, here.SHARED) + token * argument(arguments, here.SHARED_STRIDE)
        for pair in range(token * num_chosen, (token + 1) * num_chosen):
            expert = read(argument(arguments, here.CHOSEN) + pair * 8)
            if read(argument(arguments, here.AWAY) + expert * 8) != 0:
                place = read(argument(arguments, here.PAIR_PLACES) + pair * 8)
                row = argument(arguments, here.ROWS) + place * argument(arguments, here.ROWS_STRIDE)
                for i in range(0, width, 16):
                    store_part(row + i * 4, load_part(shared + i * 4, width - i), width - i)


@kernel
def await_news(block: int, gate: int, number: int, patience: int) -> None:
    """Sleep until a gate has come to a number. The block is a pool's, for how threads sleep here."""
    wait(block, gate, number, patience)


@kernel
def tell_news(gate: int) -> int:
    """Open a gate once more; what it had come to before."""
    before = count_up(gate)
    if before & 1:
        wake(gate)
    return before & -2
