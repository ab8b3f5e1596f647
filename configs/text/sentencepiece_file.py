"""What a SentencePiece file says of itself, read from its protocol buffer without the protobuf package.

The library tells pieces apart only in part and says nothing of the normaliser, and both decide whether a text
comes back byte for byte and whether a user's text can spell a special token.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

TRAINER_FIELD, KIND_OF_MODEL_FIELD, UNIGRAM = 2, 3, 1
NORMALIZER_FIELD = 3
DENORMALIZER_FIELD = 5
MAX_PIECES = 500_000
MAX_REPLACEMENT_BYTES = 256
"""The longest text that a normaliser's rule may put in the place of a character."""
TAG_PIECE, TAG_TEXT, TAG_SCORE = 0x0A, 0x0A, 0x15
"""How a piece, its text and its score begin, by number and wire type."""
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
    """The pieces of a file by their ids, and what is done to a text before it is cut."""

    texts: tuple[str, ...]
    """Of all pieces."""
    marked: Mapping[int, FilePiece]
    """Those that are of another type than nearly all are."""
    has_rules: bool
    """The normaliser rewrites characters."""
    adds_dummy_prefix: bool
    removes_extra_spaces: bool
    escapes_spaces: bool
    has_denormalizer: bool

    @property
    def pieces(self) -> tuple[FilePiece, ...]:
        """All of them."""
        return tuple(
            self.marked.get(token) or FilePiece(text, PieceKind.NORMAL, None)
            for token, text in enumerate(self.texts)
        )


def read_sentencepiece_file(data: bytes) -> SentencePieceFile:
    """Read the fields we need; ValueError says what is damaged."""
    texts: list[str] = []
    marked: dict[int, FilePiece] = {}
    flags = {3: True, 4: True, 5: True}
    has_rules = has_denormalizer = False
    pos = 0
    while pos < len(data):
        pos = _usual_texts(data, pos, texts)
        if len(texts) > MAX_PIECES:
            break
        field = next(_fields(data, pos, len(data)), None)
        if field is None:
            break
        number, wire, start, pos, _ = field
        end = pos
        if wire != WIRE_BYTES:
            continue
        if number == 1:
            piece = _any_piece(data, start, end)
            if piece.kind is not PieceKind.NORMAL:
                marked[len(texts)] = piece
            texts.append(piece.text)
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
    if len(texts) > MAX_PIECES:
        raise ValueError(f"it holds more than {MAX_PIECES} pieces")
    if not texts:
        raise ValueError("it holds no pieces")
    return SentencePieceFile(
        texts=tuple(texts),
        marked=marked,
        has_rules=has_rules,
        adds_dummy_prefix=flags[3],
        removes_extra_spaces=flags[4],
        escapes_spaces=flags[5],
        has_denormalizer=has_denormalizer,
    )


def is_unigram(data: bytes) -> bool:
    """Whether the pieces are chosen by the likeliest cut of a text, and not by joining pairs."""
    for number, wire, start, end, _ in _fields(data, 0, len(data)):
        if number == TRAINER_FIELD and wire == WIRE_BYTES:
            for field, field_wire, _, _, value in _fields(data, start, end):
                if field == KIND_OF_MODEL_FIELD and field_wire == WIRE_VARINT:
                    return value == UNIGRAM
    return True


def _check_rules(rules: bytes) -> None:
    """Refuse rules that make much of little: their table's size, the table, then texts with zeros between."""
    table_end = 4 + int.from_bytes(rules[:4], "little")
    longest = max(map(len, rules[table_end:].split(b"\0")))
    if longest > MAX_REPLACEMENT_BYTES:
        raise ValueError(f"its normaliser puts {longest} bytes in the place of a character")


def _usual_texts(data: bytes, pos: int, texts: list[str]) -> int:
    """Add the texts of pieces from `pos` on that are written as nearly all are; gives the place behind them.

    Those have a short text, a number for a score, and no type. All else is for who reads field by field.
    """
    last = len(data) - 4
    while pos < last and data[pos] == TAG_PIECE and data[pos + 2] == TAG_TEXT:
        size = data[pos + 3]
        end = pos + 9 + size
        is_usual = data[pos + 1] == size + 7 < 0x80 and size > 0 and end <= len(data)
        if (
            not is_usual
            or data[end - 5] != TAG_SCORE
            or (data[end - 1] & 0x7F == 0x7F and data[end - 2] > 0x7F)
        ):
            break
        texts.append(data[pos + 4 : end - 5].decode("utf-8"))
        pos = end
        if len(texts) > MAX_PIECES:
            break
    return pos


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
