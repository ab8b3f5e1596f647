"""What the index of token shards says: its files, their sizes and digests, and what they were made from."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.strict_json import JsonValue, parse_object
from quant.atomic import atomic_file

VERSION = 2
INDEX_NAME = "index.json"
DATA_NAMES = ("tokens.bin", "answers.bin", "lengths.npy", "sources.npy", "bytes.npy")
DTYPES = ("uint16", "uint32")
HINT = "Build the shards again."


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIndex:
    """The content of index.json."""

    dtype: str
    """Of the tokens."""
    tokenizer: str
    """Its digest."""
    sources: tuple[str, ...]
    files: dict[str, tuple[int, str]]
    """Size and SHA-256 of each data file."""
    made_from: str
    """Digest of what the shards were made from: paths, sizes and times of files, and how they were read."""

    @property
    def digest(self) -> str:
        """Of everything that a batch depends on. Where the texts lay is left out: a copy is the same data."""
        content = {key: value for key, value in self._as_json().items() if key != "made_from"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Put it into a folder, as the last file there."""
        with atomic_file(folder / INDEX_NAME) as file:
            file.write((json.dumps(self._as_json(), indent=1) + "\n").encode())

    def _as_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "dtype": self.dtype,
            "tokenizer": self.tokenizer,
            "sources": list(self.sources),
            "files": {name: list(entry) for name, entry in self.files.items()},
            "made_from": self.made_from,
        }


def read_index(folder: Path) -> ShardIndex:
    """The index of a folder; what is missing, foreign or damaged is a DataError."""
    path = folder / INDEX_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: no token shards are there", hint=f"They have an {INDEX_NAME}.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    value = parse_object(data, source=str(path), error=DataError)
    version, files = value.get("version"), value.get("files")
    if not isinstance(files, dict):
        raise DataError(f"{path}: not an index of token shards", hint="Name a folder that build_shards made.")
    if version != VERSION:
        raise DataError(
            f"{path}: shards of version {version!r}; this program reads version {VERSION}", hint=HINT
        )
    sources = value.get("sources")
    texts = {key: value.get(key) for key in ("dtype", "tokenizer", "made_from")}
    names = [source for source in sources if isinstance(source, str)] if isinstance(sources, list) else []
    is_whole = (
        texts["dtype"] in DTYPES
        and all(isinstance(text, str) for text in texts.values())
        and isinstance(sources, list)
        and len(names) == len(sources)
        and sorted(files) == sorted(DATA_NAMES)
        and all(_is_entry(entry) for entry in files.values())
    )
    if not is_whole:
        raise DataError(f"{path}: the index is damaged: a value is missing or of another type", hint=HINT)
    entries: dict[str, Any] = files
    return ShardIndex(
        dtype=str(texts["dtype"]),
        tokenizer=str(texts["tokenizer"]),
        sources=tuple(names),
        files={name: (entries[name][0], entries[name][1]) for name in DATA_NAMES},
        made_from=str(texts["made_from"]),
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path, index: ShardIndex) -> None:
    """Refuse files that are not what the index says: sizes of all first, as that costs nothing."""
    for name, (size, _) in index.files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing", hint=HINT)
        if path.stat().st_size != size:
            raise DataError(f"{path} holds {path.stat().st_size} bytes; {INDEX_NAME} says {size}", hint=HINT)
    for name, (_, digest) in index.files.items():
        if digest_of(folder / name) != digest:
            raise DataError(
                f"{folder / name} is damaged: its digest is not what {INDEX_NAME} says", hint=HINT
            )


def _is_entry(entry: JsonValue) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], int)
        and not isinstance(entry[0], bool)
        and isinstance(entry[1], str)
    )
