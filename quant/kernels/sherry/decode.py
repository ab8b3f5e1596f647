"""From patterns and signs to fields of two bits, each a weight plus one, as ternary tiles have them.

A byte of fields holds four consecutive inputs, where a byte of a ternary tile holds inputs four apart. So
tokens are turned for these tiles: field c of a lane of four bytes meets bytes c, 4+c, 8+c and 12+c of the
tile's sixteen inputs, which `turn` puts side by side.
"""

from typing import Any

from quant.jit import helper
from quant.registers import i8x64, ir, lanes_of, unary
from quant.sherry_packing import LINES, pattern_table
from quant.simd import bitcast, less, load, select, shift_right, splat, store, zeros
from quant.tables import look_up

BLOCK_BYTES = LINES * 64  # patterns and signs of 32 rows and 64 inputs

# Fields of each pattern with the sign plus: weight plus one, the first of four in the low bits.
_FIELDS = [int(((row.astype(int) + 1) << (0, 2, 4, 6)).sum()) for row in pattern_table()]
# What a field and that of the turned pattern add up to: (w + 1) + (−w + 1), in each of four fields.
TURNED_SUM = 0xAA


def _field_table(builder: Any, kind: Any, patterns: Any) -> Any:
    return ir.Constant(kind.llvm, _FIELDS * (kind.num_bytes // 16))


field_table = unary(_field_table)
"""The fields of all patterns, in each sixteen bytes of a register like the one given."""


def _turned(builder: Any, kind: Any, x: Any) -> Any:
    lanes = [
        at + 4 * row + column for at in range(0, kind.lanes, 16) for column in range(4) for row in range(4)
    ]
    return lanes_of(builder, x, lanes)


turned = unary(_turned)
"""Each sixteen bytes as four columns of four rows in place of four rows of four columns."""


@helper
def turn(to: int, q: int) -> None:
    """Write a block of a token as the fields meet it."""
    store(to, turned(load(i8x64, q)))


# Registers of words and of bytes are named by who calls: of 64 bytes, or tiles of shorter ones.


@helper
def signs_of(words: Any, w: int, half: int) -> Any:
    """The signs of 16 rows: bit t of each byte is that of tile t."""
    both = load(words, w + 256)
    return both if half == 0 else shift_right(both, 4)


@helper
def even_fields(word: Any, byte: Any, line: Any, signs: Any) -> Any:
    """Fields of the tile in the low halves of a line's bytes; a byte's highest bit in `signs` is its sign."""
    return _with_signs(word, byte, line & splat(word, 0x0F0F0F0F), signs)


@helper
def odd_fields(word: Any, byte: Any, line: Any, signs: Any) -> Any:
    """Fields of the tile in the high halves."""
    return _with_signs(word, byte, shift_right(line, 4) & splat(word, 0x0F0F0F0F), signs)


@helper
def _with_signs(word: Any, byte: Any, joined: Any, signs: Any) -> Any:
    patterns = bitcast(byte, joined)
    fields = look_up(field_table(patterns), patterns)
    turned_fields = splat(byte, TURNED_SUM) - fields
    minus = less(bitcast(byte, signs), zeros(byte))
    return bitcast(word, select(minus, turned_fields, fields))
