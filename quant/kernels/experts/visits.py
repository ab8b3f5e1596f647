"""Which rows each expert works on: nothing is computed here, tokens are sorted and kernels are called.

An expert's products are the ordinary kernels on the tokens that chose it, side by side, so a token's result
does not depend on what else is in the batch. All threads work on every expert, each on its share of the
matrix's rows, so no thread waits for the expert that most tokens chose.
"""

from quant.indirect import call_kernel
from quant.jit import helper, kernel
from quant.kernels import arguments as product
from quant.kernels.arguments import argument
from quant.kernels.elementary import places as vector
from quant.kernels.experts import places as at
from quant.registers import f32x16, i32x16, i64
from quant.simd import load, load_first, put, store, store_first


@helper
def read(address: int) -> int:
    return load(i64, address)


@helper
def block_of(arguments: int, expert: int) -> int:
    return argument(arguments, at.TABLES) + expert * at.BLOCK_BYTES


@helper
def base(arguments: int, place: int) -> int:
    return read(argument(arguments, at.BASES) + place * 8)


@helper
def count_pairs(arguments: int, num_pairs: int) -> None:
    for expert in range(argument(arguments, at.NUM_EXPERTS)):
        put(i64, block_of(arguments, expert) + at.COUNT, 0)
    for pair in range(num_pairs):
        count = block_of(arguments, read(argument(arguments, at.CHOSEN) + pair * 8)) + at.COUNT
        put(i64, count, read(count) + 1)


@helper
def list_visited(arguments: int) -> None:
    """Where each visited expert's pairs begin, and what it is counted for."""
    begin, num_visited = 0, 0
    for expert in range(argument(arguments, at.NUM_EXPERTS)):
        block = block_of(arguments, expert)
        count = read(block + at.COUNT)
        if count > 0:
            put(i64, argument(arguments, at.VISITED) + num_visited * 8, expert)
            put(i64, block + at.BEGIN, begin)
            put(i64, block + at.NEXT, begin)
            counted = argument(arguments, at.COUNTED) + expert * 8
            put(i64, counted, read(counted) + count)
            begin += count
            num_visited += 1
    put(i64, argument(arguments, at.NUM_VISITED), num_visited)


@helper
def place_pairs(arguments: int, num_pairs: int, num_chosen: int) -> None:
    for pair in range(num_pairs):
        following = block_of(arguments, read(argument(arguments, at.CHOSEN) + pair * 8)) + at.NEXT
        place = read(following)
        put(i64, following, place + 1)
        put(i64, argument(arguments, at.PAIR_PLACES) + pair * 8, place)
        put(i64, argument(arguments, at.PAIR_TOKENS) + place * 8, pair // num_chosen)


@helper
def set_int8(table: int, q: int, d: int, starts: int, begin: int) -> None:
    """Int8 rows of a table, from a place on. All operations have them in the same places."""
    d_offset = begin * argument(table, product.D_STRIDE)
    put(i64, table + product.Q * 8, q + begin * argument(table, product.Q_STRIDE))
    put(i64, table + product.D * 8, d + d_offset)
    put(i64, table + product.STARTS * 8, starts + d_offset)


@helper
def set_product(table: int, count: int, y: int, begin: int) -> None:
    put(i64, table + product.NUM_TOKENS * 8, count)
    put(i64, table + product.Y * 8, y + begin * argument(table, product.Y_STRIDE))


@helper
def set_tables(arguments: int, block: int, num_tokens: int) -> None:
    """An expert's four operations are given its rows."""
    begin, count = read(block + at.BEGIN), read(block + at.COUNT)
    for table in (block + at.GATE, block + at.UP):
        if num_tokens == 1:
            q, d = base(arguments, at.TOKEN_Q), base(arguments, at.TOKEN_D)
            set_int8(table, q, d, base(arguments, at.TOKEN_STARTS), 0)
        else:
            q, d = base(arguments, at.PAIR_Q), base(arguments, at.PAIR_D)
            set_int8(table, q, d, base(arguments, at.PAIR_STARTS), begin)
    set_product(block + at.GATE, count, base(arguments, at.GATE_ROWS), begin)
    set_product(block + at.UP, count, base(arguments, at.UP_ROWS), begin)
    inner, down = block + at.INNER, block + at.DOWN
    gate, up = argument(block + at.GATE, product.Y), argument(block + at.UP, product.Y)
    put(i64, inner + vector.X * 8, gate)
    put(i64, inner + vector.UP * 8, up)
    rows = base(arguments, at.INNER_ROWS)
    put(i64, inner + product.Y * 8, rows + begin * argument(inner, product.Y_STRIDE))
    q, d = base(arguments, at.INNER_Q), base(arguments, at.INNER_D)
    set_int8(inner, q, d, base(arguments, at.INNER_STARTS), begin)
    set_int8(down, q, d, base(arguments, at.INNER_STARTS), begin)
    set_product(down, count, base(arguments, at.DOWN_ROWS), begin)


@kernel
def dispatch(arguments: int, first: int, last: int) -> None:
    """Sort the pairs by expert and give each expert its rows. There is one unit of work."""
    for _ in range(first, last):
        num_tokens, num_chosen = argument(arguments, at.NUM_TOKENS), argument(arguments, at.NUM_CHOSEN)
        num_pairs = num_tokens * num_chosen
        count_pairs(arguments, num_pairs)
        list_visited(arguments)
        place_pairs(arguments, num_pairs, num_chosen)
        for i in range(read(argument(arguments, at.NUM_VISITED))):
            expert = read(argument(arguments, at.VISITED) + i * 8)
            set_tables(arguments, block_of(arguments, expert), num_tokens)
        put(i64, argument(arguments, at.NUM_GATHERED), 0 if num_tokens == 1 else num_pairs)


@kernel
def gather(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count pairs, by their places."""
    q_stride, d_stride = argument(arguments, at.Q_STRIDE), argument(arguments, at.D_STRIDE)
    for place in range(first, last):
        token = read(argument(arguments, at.PAIR_TOKENS) + place * 8)
        source, target = argument(arguments, at.Q) + token * q_stride, argument(arguments, at.SORTED_Q)
        for offset in range(0, q_stride, 64):
            store(target + place * q_stride + offset, load(i32x16, source + offset))
        d, starts = argument(arguments, at.D), argument(arguments, at.STARTS)
        sorted_d, sorted_starts = argument(arguments, at.SORTED_D), argument(arguments, at.SORTED_STARTS)
        here, there = token * d_stride, place * d_stride
        for offset in range(0, d_stride, 64):
            left = (d_stride - offset) >> 2
            store_first(sorted_d + there + offset, load_first(f32x16, d + here + offset, left), left)
            values = load_first(i32x16, starts + here + offset, left)
            store_first(sorted_starts + there + offset, values, left)


@kernel
def visit(arguments: int, first: int, last: int) -> None:
    """A kernel for each visited expert: `first` and `last` count that kernel's own units."""
    for i in range(read(argument(arguments, at.NUM_VISITED))):
        block = block_of(arguments, read(argument(arguments, at.VISITED) + i * 8))
        call_kernel(argument(arguments, at.FUNCTION), block + argument(arguments, at.TABLE), first, last)


@kernel
def visit_rows(arguments: int, first: int, last: int) -> None:
    """A kernel whose units are rows, on the rows of each visited expert: `first` and `last` count pairs."""
    for i in range(read(argument(arguments, at.NUM_VISITED))):
        block = block_of(arguments, read(argument(arguments, at.VISITED) + i * 8))
        begin = read(block + at.BEGIN)
        low, high = max(first, begin), min(last, begin + read(block + at.COUNT))
        if low < high:
            table = block + argument(arguments, at.TABLE)
            call_kernel(argument(arguments, at.FUNCTION), table, low - begin, high - begin)
