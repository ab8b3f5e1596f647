"""A tokenizer: text to ids and back, byte for byte, with special tokens that no text can spell.

A backend is one function that reads a file's bytes and gives a `Tokenizer`: the bytes of every id, the names
of the special tokens, and how to encode plain text. All else is here, once. What the text says never becomes
a special token; a caller who wants one says `Special("<|name|>")`.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from configs.errors import TokenizerError

TokenizerKind = Literal["sentencepiece", "huggingface", "o200k"]

O200K_NAMES = ("o200k", "o200k_base")
FILES_OF_A_FOLDER = ("tokenizer.model", "tokenizer.json")
MAX_FILE_BYTES = 128 * 1024 * 1024
MIN_FILE_BYTES = 16
HEAD_OF_NAMES = 20

_FOREIGN_HEADS: dict[bytes, str] = {
    b"GGUF": "a GGUF model",
    b"PK\x03\x04": "a zip archive or a PyTorch checkpoint",
    b"\x28\xb5\x2f\xfd": "zstd-compressed data",
    b"\x1f\x8b": "gzip-compressed data",
    b"version https://git-lfs": "a pointer that Git LFS left in place of the file",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}


@dataclass(frozen=True, slots=True)
class Special:
    """A special token by name, as one piece of an input; never made from a user's text."""

    name: str


Piece: TypeAlias = str | Special


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokenizer:
    """What a model reads and writes. Made by `open_tokenizer`."""

    kind: TokenizerKind
    """Which backend encodes."""
    source: str
    """The file or name that it came from, for messages."""
    digest: str
    """SHA-256 of the file (of the ranks and names for o200k), in hex: models and states record it."""
    token_bytes: tuple[bytes | None, ...]
    """The bytes of each id: empty for a special token, None for an id that stands for nothing."""
    specials: Mapping[str, int]
    """The special tokens, name to id."""
    bos: int | None
    """Begins a document; where a file has none, `eos` stands between documents and begins the first."""
    eos: int | None
    """Ends a document."""
    pad: int | None
    """Fills the unused places of a batch."""
    unk: int | None
    """What a tokenizer without byte fallback gives for text that it cannot spell."""
    lossy_because: str
    """Why some text does not come back byte for byte; empty if all text does."""
    adds_leading_space: bool
    """Whether encoding puts a space before a text; decoding then takes one away."""
    encoder: Callable[[str], list[int]]
    """The backend's own function: plain text to ids, no special token among them."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are; an id is below this."""
        return len(self.token_bytes)

    @property
    def is_lossless(self) -> bool:
        """Whether every text comes back byte for byte."""
        return not self.lossy_because

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return frozenset(self.specials.values())

    @property
    def masked_ids(self) -> frozenset[int]:
        """The ids that a sampler must never give: those that stand for nothing, and `unk`."""
        nothing = {token for token, data in enumerate(self.token_bytes) if data is None}
        return frozenset(nothing if self.unk is None else nothing | {self.unk})

    def encode(self, text: str) -> list[int]:
        """The ids of plain text. The name of a special token in it is text like any other."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as bad:
            raise TokenizerError(
                f"cannot encode text with half of a surrogate pair, U+{ord(text[bad.start]):04X} "
                f"at character {bad.start}; only text that UTF-8 can hold is allowed",
                hint="Read the text as UTF-8 with errors='replace', or repair it first.",
            ) from None
        return self.encoder(text)

    def encode_pieces(self, pieces: Iterable[Piece]) -> list[int]:
        """The ids of text and special tokens in order. Each piece of text is encoded on its own."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, Special):
                ids.append(self.special_id(piece.name))
            else:
                ids.extend(self.encode(piece))
        return ids

    def special_id(self, name: str) -> int:
        """The id of the special token of this name."""
        if name in self.specials:
            return self.specials[name]
        near = difflib.get_close_matches(name, self.specials, n=1)
        known = sorted(self.specials)
        listed = ", ".join(known[:HEAD_OF_NAMES]) + (", …" if len(known) > HEAD_OF_NAMES else "")
        raise TokenizerError(
            f"{self.source}: no special token {name!r}; it has {listed or 'none'}",
            hint=f"Did you mean {near[0]!r}?"
            if near
            else "Use a tokenizer and a template made for each other.",
        )

    def id_to_bytes(self, token: int) -> bytes | None:
        """The bytes of an id: empty for a special token, None for an id to mask when sampling."""
        if not 0 <= token < len(self.token_bytes):
            raise TokenizerError(
                f"{self.source}: no token {token}; ids go from 0 to {len(self.token_bytes) - 1}",
                hint="The ids come from another tokenizer, or the sampler saw logits past the vocabulary.",
            )
        return self.token_bytes[token]

    def text_bytes(self, token: int) -> bytes:
        """The bytes of an id that may stand in a text; an id that stands for nothing is an error."""
        data = self.id_to_bytes(token)
        if data is None:
            raise TokenizerError(
                f"{self.source}: token {token} stands for nothing",
                hint="Mask the ids of Tokenizer.masked_ids when sampling.",
            )
        return data

    def decode_bytes(self, ids: Iterable[int], *, continuing: bool = False) -> bytes:
        """The bytes of the ids without special tokens; `continuing`: text went before, keep a first space."""
        data = b"".join(map(self.text_bytes, ids))
        return data.removeprefix(b" ") if self.adds_leading_space and not continuing else data

    def decode(self, ids: Iterable[int], *, continuing: bool = False) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids, continuing=continuing).decode("utf-8", errors="replace")


def open_tokenizer(path_or_name: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a file, of a model's folder, or "o200k".

    What a file is, its content says and not its name. A folder is searched for the names of
    FILES_OF_A_FOLDER. Beside a tokenizer.json, tokenizer_config.json names the tokens that begin, end and
    pad.
    """
    path = Path(path_or_name)
    if str(path_or_name) in O200K_NAMES and not path.exists():
        from configs.text.o200k_backend import load_o200k

        return load_o200k()
    if path.is_dir():
        found = [path / name for name in FILES_OF_A_FOLDER if (path / name).is_file()]
        if not found:
            raise TokenizerError(
                f"{path}: no tokenizer in this folder; expected one of {', '.join(FILES_OF_A_FOLDER)}",
                hint="Name the tokenizer's file itself, or the model's own folder.",
            )
        path = found[0]
    side = path.with_name("tokenizer_config.json")
    return tokenizer_from_bytes(
        _read(path), source=str(path), side_config=_read(side) if side.is_file() else None
    )


def tokenizer_from_bytes(data: bytes, *, source: str, side_config: bytes | None = None) -> Tokenizer:
    """The tokenizer that a file's content describes; `side_config` is the tokenizer_config.json beside it."""
    if len(data) < MIN_FILE_BYTES:
        raise TokenizerError(f"{source}: {len(data)} bytes, too short for a tokenizer", hint=_ALLOWED)
    for head, what in _FOREIGN_HEADS.items():
        if data.startswith(head):
            raise TokenizerError(f"{source}: this is {what}, not a tokenizer", hint=_ALLOWED)
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        from configs.text.huggingface_backend import load_huggingface

        return load_huggingface(data, source=source, side_config=side_config)
    if data[:1] == b"\n":
        from configs.text.sentencepiece_backend import load_sentencepiece

        return load_sentencepiece(data, source=source)
    raise TokenizerError(f"{source}: not a tokenizer; it begins with {data[:8]!r}", hint=_ALLOWED)


_ALLOWED = (
    "Give a SentencePiece .model, a Hugging Face tokenizer.json, a folder that holds one, or the name o200k."
)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise TokenizerError(
                f"{path}: {size} bytes, too long for a tokenizer; at most {MAX_FILE_BYTES} are allowed",
                hint=_ALLOWED,
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise TokenizerError(f"{path}: no such file", hint=_ALLOWED) from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}", hint=_ALLOWED) from None
