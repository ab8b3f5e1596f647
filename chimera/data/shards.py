"""Token shards: the documents of all sources as ids in one mapped file, with a table of where each lies.

    index.json     version, sizes and digests of the files, the tokenizer's digest, names of the sources
    tokens.bin     uint16, or uint32 for a large vocabulary: documents end to end, with begin and end tokens
    answers.bin    uint8, which tokens are answers
    lengths.npy    int32, tokens of each document            sources.npy    uint16, where each is from
    bytes.npy      uint16, bytes of text that each id of the vocabulary stands for

A folder is written beside its place and renamed when it is whole, so what opens is complete.
"""

import hashlib
import json
import os
import secrets
import shutil
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from chimera.data.shard_index import DATA_NAMES, INDEX_NAME, ShardIndex, check_files, digest_of, read_index
from chimera.data.shard_tables import HINT, largest, map_column, read_table
from chimera.data.sources import Source, documents_of
from chimera.train.folder_lock import NAME as LOCK_NAME
from chimera.train.folder_lock import FolderLock
from chimera.train.folders import make_folder
from configs.errors import ChimeraError, DataError, UsageError
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer

PIECE = 1 << 20
MOST_SOURCES = 2**16

Progress = Callable[[str, int], None]
"""Called with a source's name and the tokens written so far."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shards:
    """Documents on disk, mapped."""

    folder: Path
    digest: str
    """Of all tokens and how they lie: the same texts and tokenizer give the same anywhere."""
    tokenizer_digest: str
    sources: tuple[str, ...]
    tokens: NDArray[Any]
    answers: NDArray[np.uint8]
    lengths_N: NDArray[np.int32]
    source_N: NDArray[np.uint16]
    id_bytes: NDArray[np.uint16]
    """Bytes of text of each id; special tokens have none."""

    @property
    def num_tokens(self) -> int:
        """Tokens, each document's beginning and end included."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        """Documents of all sources."""
        return len(self.lengths_N)

    @property
    def starts_N(self) -> NDArray[np.int64]:
        """Where each document begins in `tokens`."""
        return np.cumsum(self.lengths_N, dtype=np.int64) - self.lengths_N

    def num_bytes(self) -> int:
        """Bytes of text that all tokens stand for."""
        return int(self.bytes_N().sum())

    def bytes_N(self) -> NDArray[np.int64]:
        """Bytes of text of each document."""
        return self._sums_N(lambda some: self.id_bytes[self.tokens[some]])

    def answers_N(self) -> NDArray[np.int64]:
        """Answer tokens of each document."""
        return self._sums_N(lambda some: self.answers[some])

    def _sums_N(self, values: Callable[[slice], NDArray[Any]]) -> NDArray[np.int64]:
        """Sums over each document of a value of its tokens, some millions of tokens at a time."""
        sums = np.zeros(self.num_documents, dtype=np.int64)
        starts = self.starts_N
        for at in range(0, self.num_tokens, PIECE):
            # Documents that begin in this piece, and the one that it begins in the middle of.
            first = int(np.searchsorted(starts, at, side="right")) - 1
            last = int(np.searchsorted(starts, at + PIECE, side="left"))
            here = values(slice(at, at + PIECE)).astype(np.int64)
            sums[first:last] += np.add.reduceat(here, np.maximum(starts[first:last] - at, 0))
        return sums


def build_shards(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    template: ChatTemplate | None = None,
    chat_share: float = 0.0,
    progress: Progress | None = None,
) -> Shards:
    """Write the shards of some sources; those that stand there from the same files are opened as they are.

    Shards of something else, or damaged ones, are replaced. A folder that holds other things is refused.
    """
    folder = Path(folder)
    template = template or ChatTemplate.of_tokenizer(tokenizer)
    made_from = _made_from(sources, tokenizer, template=template, chat_share=chat_share)
    if (found := _found(folder, made_from)) is not None:
        return found
    try:
        make_folder(folder.parent)
        _sweep(folder)
        unfinished = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(8)}")
        unfinished.mkdir()
        lock = FolderLock(unfinished)
        try:
            names = _write(unfinished, sources, tokenizer, template, chat_share, progress)
            files = {
                name: ((unfinished / name).stat().st_size, digest_of(unfinished / name))
                for name in DATA_NAMES
            }
            index = ShardIndex(
                dtype=_dtype(tokenizer),
                tokenizer=tokenizer.digest,
                sources=tuple(names),
                files=files,
                made_from=made_from,
            )
            index.write(unfinished)
            _put_in_place(unfinished, folder)
        finally:
            lock.release()
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{folder}: the token shards cannot be written: {error.strerror or error}",
            hint="Give the run another folder, or make room on the disk.",
        ) from None
    return open_shards(folder)


def open_shards(folder: str | Path) -> Shards:
    """Map the shards of a folder, after their sizes and digests were checked."""
    folder = Path(folder)
    index = read_index(folder)
    check_files(folder, index)
    shards = Shards(
        folder=folder,
        digest=index.digest,
        tokenizer_digest=index.tokenizer,
        sources=index.sources,
        tokens=map_column(folder / "tokens.bin", index.dtype),
        answers=map_column(folder / "answers.bin", "uint8"),
        lengths_N=read_table(folder / "lengths.npy", np.int32),
        source_N=read_table(folder / "sources.npy", np.uint16),
        id_bytes=read_table(folder / "bytes.npy", np.uint16),
    )
    _check_tables(shards)
    return shards


def _check_tables(shards: Shards) -> None:
    """Refuse tables that do not fit each other, though each is what its digest says."""
    lengths, sources = shards.lengths_N, shards.source_N
    fits = (
        len(lengths) == len(sources)
        and int(lengths.min(initial=1)) > 0
        and int(sources.max(initial=0)) < len(shards.sources)
        and int(lengths.sum(dtype=np.int64)) == len(shards.tokens) == len(shards.answers)
    )
    if not fits:
        raise DataError(
            f"{shards.folder}: the tables do not fit {len(shards.tokens)} tokens",
            hint=HINT,
        )
    # An id beyond the vocabulary would be read beside the embedding.
    if largest(shards.tokens) >= len(shards.id_bytes) or largest(shards.answers) > 1:
        raise DataError(
            f"{shards.folder}: a token is no id of the {len(shards.id_bytes)} that bytes.npy counts, or its "
            "mark as an answer is neither 0 nor 1",
            hint=HINT,
        )


def _found(folder: Path, made_from: str) -> Shards | None:
    """Shards that can be used as they are; None where they are to be made."""
    if not folder.exists():
        return None
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if not names:
        return None
    if INDEX_NAME not in names or not names <= {INDEX_NAME, *DATA_NAMES, LOCK_NAME}:
        raise UsageError(f"{folder} is not empty and holds no token shards", hint="Name another folder.")
    try:
        return open_shards(folder) if read_index(folder).made_from == made_from else None
    except DataError:
        return None  # damaged, or of another version: they are made anew


def _write(
    folder: Path,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    chat_share: float,
    progress: Progress | None,
) -> list[str]:
    """The data files of all documents; gives the names of their sources by number."""
    dtype = np.dtype(_dtype(tokenizer))
    numbers: dict[str, int] = {}
    lengths, source_of = array("i"), array("H")
    written = 0
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "answers.bin").open("wb") as answers:
        for source in sources:
            for document in documents_of(source, tokenizer, template=template, chat_share=chat_share):
                tokens.write(np.array(document.ids, dtype=dtype).tobytes())
                answers.write(bytes(document.answers))
                number = numbers.setdefault(document.source, len(numbers))
                if number >= MOST_SOURCES:
                    raise DataError(
                        f"{source.path}: more than {MOST_SOURCES} sources",
                        hint="A record's kind is one of few, such as story or letter; else leave it out.",
                    )
                lengths.append(len(document.ids))
                source_of.append(number)
                written += len(document.ids)
                if progress is not None and len(lengths) % 1000 == 0:
                    progress(document.source, written)
            if progress is not None:
                progress(source.name, written)
        _sync(tokens)
        _sync(answers)
    if not lengths:
        raise DataError("the sources hold no text", hint="Look at what their records are made of.")
    _save(folder / "lengths.npy", np.array(lengths, dtype=np.int32))
    _save(folder / "sources.npy", np.array(source_of, dtype=np.uint16))
    _save(folder / "bytes.npy", _id_bytes(tokenizer))
    return list(numbers)


def _id_bytes(tokenizer: Tokenizer) -> NDArray[np.uint16]:
    no_text = tokenizer.special_ids | tokenizer.masked_ids
    ids = range(tokenizer.vocab_size)
    return np.array(
        [0 if token in no_text else len(tokenizer.text_bytes(token)) for token in ids], dtype=np.uint16
    )


def _made_from(
    sources: Sequence[Source], tokenizer: Tokenizer, *, template: ChatTemplate, chat_share: float
) -> str:
    """A digest of what the shards depend on; a file counts as the same by path, size and time."""
    files: list[Any] = []
    for source in sources:
        status = source.path.stat()
        files.append(
            [str(source.path.resolve()), source.name, source.times, status.st_size, status.st_mtime_ns]
        )
    made_from = [tokenizer.digest, template.source, chat_share, files]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _dtype(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


def _save(path: Path, values: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, values)
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Give a whole folder its name. What had it is moved away first, so that it never opens in part."""
    before = unfinished.with_name(unfinished.name + "-before")
    if folder.exists():
        folder.rename(before)
    unfinished.rename(folder)
    (folder / LOCK_NAME).unlink()
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    shutil.rmtree(before, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed builds left: nobody holds its lock."""
    for left in folder.parent.glob(f".{folder.name}.partial-*"):
        try:
            FolderLock(left).release()
        except ChimeraError:
            continue
        shutil.rmtree(left, ignore_errors=True)
