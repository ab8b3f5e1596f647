"""What a SentencePiece file says of itself, read from its protocol buffer without the protobuf package.

The library tells pieces apart only in part and says nothing of the normaliser, and both decide whether a text
comes back byte for byte and whether a user's text can spell a special token.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import NamedTuple

NORMALIZER_FIELD = 3
DENORMALIZER_FIELD = 5
MAX_PIECES = 500_000
MAX_REPLACEMENT_BYTES = 256
"""The longest text that a normaliser's rule may put in the place of a character."""
TAG_TEXT, TAG_SCORE = 0x0A, 0x15
"""How a piece's text and its score begin, by number and wire type."""
SHORTEST_USUAL_BYTES = 8
_SCORE = struct.Struct("<f")
WIRE_VARINT, WIRE_64_BITS, WIRE_BYTES, WIRE_32_BITS = 0, 1, 2, 5


class PieceKind(IntEnum):
    """The types of pieces in the file format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class FilePiece(NamedTuple):
    """One piece: its text, its type, and where in the file its type stands (None if left out)."""

    text: str
    kind: PieceKind
    kind_at: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SentencePieceFile:
    """The pieces of a file in the order of their ids, and what is done to a text before it is cut."""

    pieces: tuple[FilePiece, ...]
    has_rules: bool
    """The normaliser rewrites characters."""
    adds_dummy_prefix: bool
    removes_extra_spaces: bool
    escapes_spaces: bool
    has_denormalizer: bool


def read_sentencepiece_file(data: bytes) -> SentencePieceFile:
    """Read the fields we need; ValueError says what is damaged."""
    pieces: list[FilePiece] = []
    flags = {3: True, 4: True, 5: True}
    has_rules = has_denormalizer = False
    for number, wire, start, end, _ in _fields(data, 0, len(data)):
        if wire != WIRE_BYTES:
            continue
        if number == 1:
            pieces.append(_piece(data, start, end))
            if len(pieces) > MAX_PIECES:
                raise ValueError(f"it holds more than {MAX_PIECES} pieces")
        elif number == NORMALIZER_FIELD:
            for field, field_wire, first, last, value in _fields(data, start, end):
                if field == 2 and field_wire == WIRE_BYTES and last > first:
                    has_rules = True
                    _check_rules(data[first:last])
                elif field in flags and field_wire == WIRE_VARINT:
                    flags[field] = bool(value)
        elif number == DENORMALIZER_FIELD:
            has_denormalizer = any(
                field == 2 and last > first for field, _, first, last, _ in _fields(data, start, end)
            )
    if not pieces:
        raise ValueError("it holds no pieces")
    return SentencePieceFile(
        pieces=tuple(pieces),
        has_rules=has_rules,
        adds_dummy_prefix=flags[3],
        removes_extra_spaces=flags[4],
        escapes_spaces=flags[5],
        has_denormalizer=has_denormalizer,
    )


def _check_rules(rules: bytes) -> None:
    """Refuse rules that make much of little: their table's size, the table, then texts with zeros between."""
    table_end = 4 + int.from_bytes(rules[:4], "little")
    longest = max(map(len, rules[table_end:].split(b"\0")))
    if longest > MAX_REPLACEMENT_BYTES:
        raise ValueError(f"its normaliser puts {longest} bytes in the place of a character")


def _piece(data: bytes, start: int, end: int) -> FilePiece:
    # Nearly all are written so: a short text, a score, and the type if it is no normal one.
    if end - start < SHORTEST_USUAL_BYTES:
        return _any_piece(data, start, end)
    text_end = start + 2 + data[start + 1]
    is_usual = data[start] == TAG_TEXT and 2 < text_end - start < 130 and end - text_end == 5
    if is_usual and data[text_end] == TAG_SCORE and -inf < _SCORE.unpack_from(data, text_end + 1)[0] < inf:
        return FilePiece(data[start + 2 : text_end].decode("utf-8"), PieceKind.NORMAL, None)
    return _any_piece(data, start, end)


def _any_piece(data: bytes, start: int, end: int) -> FilePiece:
    text, kind, kind_at = "", PieceKind.NORMAL, None
    for number, wire, first, last, value in _fields(data, start, end):
        if number == 1 and wire == WIRE_BYTES:
            text = data[first:last].decode("utf-8")
        elif number == 2 and wire == WIRE_32_BITS:
            score = _SCORE.unpack_from(data, first)[0]
            if score != score:
                raise ValueError(f"a piece at byte {start} has no number for a score")
        elif number == 3 and wire == WIRE_VARINT:
            if last - first != 1 or value not in tuple(PieceKind):
                raise ValueError(f"a piece of unknown type {value} at byte {first}")
            kind, kind_at = PieceKind(value), first
    if not text:
        raise ValueError(f"an empty piece at byte {start}")
    return FilePiece(text, kind, kind_at)


def _fields(data: bytes, pos: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Each field of the message in data[pos:end]: number, wire type, first byte, end, a varint's value."""
    while pos < end:
        tag, pos = _varint(data, pos, end)
        number, wire = tag >> 3, tag & 7
        start, value = pos, 0
        if wire == WIRE_VARINT:
            value, pos = _varint(data, pos, end)
        elif wire == WIRE_BYTES:
            size, start = _varint(data, pos, end)
            pos = start + size
        elif wire in (WIRE_32_BITS, WIRE_64_BITS):
            pos += 4 if wire == WIRE_32_BITS else 8
        else:
            raise ValueError(f"an unknown field type at byte {start}")
        if pos > end:
            raise ValueError(f"a field at byte {start} runs over the end of the data")
        yield number, wire, start, pos, value


def _varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    if pos < end and data[pos] < 0x80:
        return data[pos], pos + 1
    value = shift = 0
    while pos < end and shift < 64:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7
    raise ValueError(f"a number cut off at byte {pos}")
