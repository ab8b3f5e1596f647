"""SentencePiece `.model` files: byte-exact where the file allows it, special tokens out of a text's reach.

Three things stand between the library and exactness, and each is met here:

- The library writes a space as U+2581, so a U+2581 in the text would come back as a space. Such characters
  are cut out and given as their three byte pieces.
- It sums scores over the whole text in 32-bit floats, so a word's pieces may depend on what stands far before
  it. A text is cut into lines, and long lines before a space, where no piece of the vocabulary crosses. Then
  a line is encoded alike wherever it stands.
- It finds user-defined pieces in any text. They become control pieces, which it never looks for, unless they
  are only white space.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Protocol, cast

import sentencepiece

from configs.errors import TokenizerError
from configs.text.sentencepiece_file import FilePiece, PieceKind, SentencePieceFile, read_sentencepiece_file
from configs.text.tokenizer import Tokenizer

SPACE_MARK = "\u2581"
SEGMENT_CHARACTERS = 4096
REPLACEMENT = "\ufffd".encode()
HINT_DAMAGED = "Copy the file again from where it came, or train one with train_sentencepiece."

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE_AFTER_WORD = re.compile(r"(?<=[^ ]) ")


class _Processor(Protocol):
    """The part of the library's processor that is used, with its types."""

    def encode(self, text: str) -> list[int]: ...
    def bos_id(self) -> int: ...
    def eos_id(self) -> int: ...
    def pad_id(self) -> int: ...
    def unk_id(self) -> int: ...
    def get_piece_size(self) -> int: ...


def load_sentencepiece(data: bytes, *, source: str) -> Tokenizer:
    """The tokenizer of a `.model` file's bytes."""
    try:
        file = read_sentencepiece_file(data)
    except ValueError as error:
        raise TokenizerError(f"{source}: damaged SentencePiece model: {error}", hint=HINT_DAMAGED) from None
    specials = {piece.text: token for token, piece in file.marked.items() if _is_special(piece)}
    byte_ids = _byte_ids(file, source=source)
    processor = _processor(_hide_user_defined(data, file), source=source)
    size = processor.get_piece_size()
    if size != len(file.texts):
        raise TokenizerError(
            f"{source}: damaged SentencePiece model: {len(file.texts)} pieces, read as {size}",
            hint=HINT_DAMAGED,
        )
    lossy_because = _why_lossy(file, has_bytes=bool(byte_ids))
    unk = _id(processor.unk_id())
    return Tokenizer(
        kind="sentencepiece",
        source=source,
        digest=hashlib.sha256(data).hexdigest(),
        token_bytes=_token_bytes(file, has_bytes=bool(byte_ids)),
        specials=MappingProxyType(specials),
        bos=_id(processor.bos_id()),
        eos=_id(processor.eos_id()),
        pad=_id(processor.pad_id()),
        unk=unk,
        lossy_because=lossy_because,
        adds_leading_space=file.adds_dummy_prefix,
        encoder=processor.encode if lossy_because else _exact_encoder(processor, file, byte_ids),
    )


def _is_special(piece: FilePiece) -> bool:
    if piece.kind is PieceKind.USER_DEFINED:
        return bool(piece.text.replace(SPACE_MARK, " ").strip())
    return piece.kind is PieceKind.CONTROL


def _hide_user_defined(data: bytes, file: SentencePieceFile) -> bytes:
    """The file with user-defined special tokens made control tokens; both types are one byte long."""
    patched = bytearray(data)
    for piece in file.marked.values():
        if piece.kind == PieceKind.USER_DEFINED and piece.kind_at is not None and _is_special(piece):
            patched[piece.kind_at] = PieceKind.CONTROL
    return bytes(patched)


def _byte_ids(file: SentencePieceFile, *, source: str) -> tuple[int, ...]:
    """The ids of the 256 byte pieces by byte; empty if the file has none."""
    found: dict[int, int] = {}
    for token, piece in file.marked.items():
        if piece.kind == PieceKind.BYTE:
            name = _BYTE_PIECE.fullmatch(piece.text)
            if name is None:
                raise TokenizerError(
                    f"{source}: damaged SentencePiece model: byte piece {piece.text!r}; "
                    "expected <0x00> to <0xFF>",
                    hint=HINT_DAMAGED,
                )
            found[int(name.group(1), 16)] = token
    return tuple(found[byte] for byte in range(256)) if len(found) == 256 else ()


def _processor(data: bytes, *, source: str) -> _Processor:
    sentencepiece.set_min_log_level(3)  # the library prints its complaint as well as raising it
    try:
        return cast(_Processor, sentencepiece.SentencePieceProcessor(model_proto=data))
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TokenizerError(
            f"{source}: not a usable SentencePiece model: {reason}", hint=HINT_DAMAGED
        ) from None


def _token_bytes(file: SentencePieceFile, *, has_bytes: bool) -> tuple[bytes | None, ...]:
    """What each token stands for. Texts are rewritten together, as one by one they would take longer."""
    together = "\0".join(file.texts).replace(SPACE_MARK, " ").encode()
    found: list[bytes | None] = [*together.split(b"\0")]
    if len(found) != len(file.texts):
        found = [text.replace(SPACE_MARK, " ").encode() for text in file.texts]
    for token, piece in file.marked.items():
        found[token] = _bytes_of(piece, has_bytes=has_bytes)
    return tuple(found)


def _texts_in_text(file: SentencePieceFile) -> list[str]:
    """The pieces that a text is cut into."""
    marked = file.marked
    return [
        text
        for token, text in enumerate(file.texts)
        if token not in marked or marked[token].kind is PieceKind.USER_DEFINED
    ]


def _bytes_of(piece: FilePiece, *, has_bytes: bool) -> bytes | None:
    """What a piece that is no normal one stands for; None is nothing that a text can hold."""
    if piece.kind == PieceKind.UNUSED:
        return None
    if piece.kind == PieceKind.UNKNOWN:
        return None if has_bytes else REPLACEMENT
    if _is_special(piece):
        return b""
    if piece.kind == PieceKind.BYTE:
        return bytes([int(piece.text[3:5], 16)])
    return piece.text.replace(SPACE_MARK, " ").encode("utf-8")


def _why_lossy(file: SentencePieceFile, *, has_bytes: bool) -> str:
    has_space = SPACE_MARK in _texts_in_text(file)
    reasons = {
        "its normaliser rewrites characters": file.has_rules,
        "its denormaliser rewrites characters": file.has_denormalizer,
        "it puts a space before the text": file.adds_dummy_prefix,
        "it removes repeated spaces": file.removes_extra_spaces,
        "it cuts at white space without keeping it": not file.escapes_spaces,
        "it has no byte pieces, so unknown characters are lost": not has_bytes,
        "it has no piece for a space": not has_space,
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def _id(token: int) -> int | None:
    return token if token >= 0 else None


def _exact_encoder(
    processor: _Processor, file: SentencePieceFile, byte_ids: tuple[int, ...]
) -> Callable[[str], list[int]]:
    """Encode line by line, long lines in segments, with U+2581 as bytes."""
    mark_ids = [byte_ids[byte] for byte in SPACE_MARK.encode()]
    texts = _texts_in_text(file)
    cut_at_newline = not any("\n" in text for text in texts)
    cut_at_space = not any(SPACE_MARK in text.lstrip(SPACE_MARK) for text in texts)

    def parts_of(line: str) -> Iterator[list[int]]:
        if len(line) <= SEGMENT_CHARACTERS and SPACE_MARK not in line:
            yield processor.encode(line)
            return
        for number, part in enumerate(line.split(SPACE_MARK)):
            if number:
                yield mark_ids
            for segment in segments(part) if cut_at_space else (part,):
                yield processor.encode(segment)

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        # An id that comes again is the same number: a long text has few, and each would take 32 bytes anew.
        known: dict[int, int] = {}
        for number, line in enumerate(text.split("\n") if cut_at_newline else (text,)):
            if number:
                ids.append(byte_ids[0x0A])
            for part in parts_of(line) if line else ():
                ids.extend(map(known.setdefault, part, part))
        return ids

    return encode


def segments(text: str, *, limit: int = SEGMENT_CHARACTERS) -> Iterator[str]:
    """The text in parts of about `limit` characters, each cut before the first space after a word."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind(" ", start + 1, start + limit)
        while end > start and text[end - 1] == " ":
            end -= 1
        if end <= start:
            space = _SPACE_AFTER_WORD.search(text, start + 1)
            end = space.start() if space else len(text)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
