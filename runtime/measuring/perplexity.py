"""How well a model foresees text: bits per byte by source, whatever computes the model.

A byte is the same for every tokenizer, so models with different ones can be compared:

    bits per byte = −Σ log₂ p(token | all before it in its document) / Σ bytes of those tokens' text

A document begins with the tokenizer's own begin token and a fresh state. A long one goes through the model in
windows with the state carried on, so that nothing is forgotten and no token is foreseen from half a context.
Special tokens stand for no bytes and are not counted, as a whole or as a loss. A conversation counts its
replies alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import DataError, ModelError, UsageError
from configs.text.records import SUFFIXES, ChatRecord, PromptRecord, Record, TextRecord, read_records
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Special, Tokenizer

Progress = Callable[[int], None]
"""Given the bytes of text scored since last time."""
ALL_SOURCES = "all"


class Scorer(Protocol):
    """A model that says how likely a text was to it. One stream: what it has read last is its state."""

    def score(self, ids_T: NDArray[np.int64], *, goes_on: bool) -> NDArray[np.float64]:
        """Natural logarithms of the probability of each id but the first, [T − 1], given all before it.

        With `goes_on`, the first id is the last one of the call before, and the text goes on from there;
        without, a document begins with it. There are at least two ids.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Document:
    """A text as the model reads it."""

    source: str
    ids_T: NDArray[np.int64]
    counted_T: NDArray[np.bool_]
    """Which ids are scored. The first never is: nothing goes before it."""
    num_bytes: int
    """Bytes of text that the counted ids stand for."""


@dataclass(kw_only=True, slots=True)
class Tally:
    """What was found over some documents."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    nats: float = 0.0
    """The sum of −ln p."""

    @property
    def bits_per_byte(self) -> float:
        """The measure; 0 for no text."""
        return self.nats / math.log(2) / self.bytes if self.bytes else 0.0

    @property
    def nats_per_token(self) -> float:
        """The mean loss of a token, as training prints it; 0 for no text."""
        return self.nats / self.tokens if self.tokens else 0.0

    def add(self, other: "Tally") -> None:
        """Take in what another tally found."""
        self.documents += other.documents
        self.tokens += other.tokens
        self.bytes += other.bytes
        self.nats += other.nats


def measure(
    scorer: Scorer, documents: Iterable[Document], *, seq_len: int, progress: Progress | None = None
) -> dict[str, Tally]:
    """Score documents; tallies by source, in the order in which sources appear, and of all at the end."""
    if seq_len < 1:
        raise UsageError(f"a window of {seq_len} tokens; at least 1 is needed")
    tallies: dict[str, Tally] = {}
    for document in documents:
        tally = Tally(documents=1, bytes=document.num_bytes)
        for log_probs, counted in _windows(scorer, document, seq_len=seq_len):
            tally.tokens += int(counted.sum())
            tally.nats -= float(log_probs[counted].sum())
        if not math.isfinite(tally.nats):
            raise ModelError(
                f"the model gives a text of {document.source!r} the probability {math.exp(-tally.nats)}",
                hint="Its weights are damaged, or its training has diverged: try an earlier checkpoint.",
            )
        tallies.setdefault(document.source, Tally()).add(tally)
        if progress is not None:
            progress(document.num_bytes)
    if not sum(tally.bytes for tally in tallies.values()):
        raise DataError("there is no text to score", hint="Name files with at least one document.")
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    return {**tallies, ALL_SOURCES: total}


def read_documents(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    chat: ChatTemplate | None = None,
    most: int | None = None,
) -> Iterator[Document]:
    """The documents of data files and of folders of them, at most `most` of each file.

    Without `chat`, a text or a completion is a document by itself, and conversations are refused; with it, a
    prompt is the user's turn, and only what the assistant says is counted.
    """
    for path in data_files(paths):
        for number, record in enumerate(read_records(path)):
            if number == most:
                break
            document = _document(record, tokenizer, chat)
            if document.counted_T.any():
                yield document


def data_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those with the name of a data file below folders named."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(
            file for file in path.rglob("*") if Path(file.name.removesuffix(".zst")).suffix in SUFFIXES
        )
        if not inside:
            raise DataError(
                f"{path}: no data file below it; expected {', '.join(SUFFIXES)}, each also as .zst",
                hint="Name the files themselves.",
            )
        files += inside
    return files


def report(tallies: dict[str, Tally]) -> list[dict[str, Any]]:
    """A row for each source, ready for JSON."""
    return [
        {
            "source": source,
            "documents": tally.documents,
            "tokens": tally.tokens,
            "bytes": tally.bytes,
            "bits_per_byte": tally.bits_per_byte,
            "nats_per_token": tally.nats_per_token,
        }
        for source, tally in tallies.items()
    ]


def _windows(
    scorer: Scorer, document: Document, *, seq_len: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Windows of a document that overlap by one id: what is read last there is foreseen from here."""
    for first in range(0, len(document.ids_T) - 1, seq_len):
        ids = document.ids_T[first : first + seq_len + 1]
        log_probs = scorer.score(ids, goes_on=first > 0)
        yield log_probs, document.counted_T[first + 1 : first + seq_len + 1]


def _document(record: Record, tokenizer: Tokenizer, chat: ChatTemplate | None) -> Document:
    name = Path(record.file).name.partition(".")[0]
    source = name if record.kind is None else f"{name}/{record.kind}"
    if chat is not None and not isinstance(record, TextRecord):
        return _conversation(record, source, tokenizer, chat)
    if isinstance(record, ChatRecord):
        raise DataError(
            f"{record.file}:{record.line}: a conversation cannot be scored as plain text",
            hint="Score replies by the model's chat template, with --chat.",
        )
    text = record.completion if isinstance(record, PromptRecord) else record.text
    ids = tokenizer.encode(text)
    num_bytes = len(text.encode())
    start = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    if start is None:
        # Nothing marks a beginning, so the first token is given and not foreseen.
        num_bytes -= len(tokenizer.decode_bytes(ids[:1]))
        counted = [False] + [True] * (len(ids) - 1)
    else:
        counted = [False] + [True] * len(ids)
        ids = [start, *ids]
    return Document(
        source=source,
        ids_T=np.array(ids, dtype=np.int64),
        counted_T=np.array(counted, dtype=np.bool_),
        num_bytes=num_bytes,
    )


def _conversation(
    record: PromptRecord | ChatRecord, source: str, tokenizer: Tokenizer, chat: ChatTemplate
) -> Document:
    turns = (
        [{"role": "user", "content": record.prompt}, {"role": "assistant", "content": record.completion}]
        if isinstance(record, PromptRecord)
        else record.messages
    )
    rendered = chat.render(turns, find_replies=True)
    start = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    ids, is_reply = rendered.encode(tokenizer)
    if start is not None and ids[:1] != [start]:
        ids, is_reply = [start, *ids], [False, *is_reply]
    special = tokenizer.special_ids
    said = [rendered.pieces[number] for reply in rendered.replies for number in reply]
    return Document(
        source=source,
        ids_T=np.array(ids, dtype=np.int64),
        counted_T=np.array(
            [reply and token not in special for token, reply in zip(ids, is_reply, strict=True)],
            dtype=np.bool_,
        ),
        num_bytes=sum(len(piece.encode()) for piece in said if not isinstance(piece, Special)),
    )
