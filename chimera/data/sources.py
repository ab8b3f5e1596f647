"""Where text comes from: files and folders, read as documents of ids that know which of them are answers.

A source is a path, `stories.jsonl.zst`, or with a number of times that its records count, `stories.jsonl*2`
or `manuals.txt*0.5`. A folder stands for the data files below it. Bits per byte are reported by source; a
record with a kind is a source of its own, `stories/dialogue`.

A document begins and ends as it does where a model runs: with the token that begins a text, which is the end
token where a tokenizer has no other, and with the end token.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chimera.data.conversations import Conversations
from configs.errors import DataError, TokenizerError, UsageError
from configs.text import records
from configs.text.records import ChatRecord, PromptRecord, Record, TextRecord, read_records
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer

SUFFIXES = (*records.SUFFIXES, *(suffix + ".zst" for suffix in records.SUFFIXES))
MOST_TIMES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of records."""

    path: Path
    name: str
    """What it is called in reports: the file's name without its endings."""
    times: float = 1.0
    """How often each record counts; the fraction decides by the record's digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text as ids, its beginning and end included."""

    ids: list[int]
    answers: list[bool]
    """Which ids are an answer's, for learning from answers alone; in plain text none is."""
    source: str


def sources_of(paths: Sequence[str | Path]) -> tuple[Source, ...]:
    """The files behind some paths, folders in order of their names."""
    found: list[Source] = []
    for given in paths:
        path, times = _times(str(given))
        if path.is_dir():
            files = _below(path)
            if not files:
                raise DataError(f"{path}: no data file below it", hint=_ALLOWED)
        elif not path.is_file():
            raise DataError(f"{path}: there is no such file or folder")
        elif not path.name.endswith(SUFFIXES):
            raise DataError(f"{path}: not the name of a data file", hint=_ALLOWED)
        else:
            files = [path]
        found += [Source(path=file, name=_name(file), times=times) for file in files]
    if not found:
        raise UsageError("no data to learn from", hint="Name files or folders with --data.")
    return tuple(found)


def texts_of(sources: Sequence[Source]) -> Iterator[str]:
    """Every text in the sources as it is, as often as it counts, for training a tokenizer."""
    for source in sources:
        for record in read_records(source.path):
            for _ in range(_count(record, source.times)):
                yield from _texts(record)


def documents_of(
    source: Source, tokenizer: Tokenizer, *, template: ChatTemplate, chat_share: float = 0.0
) -> Iterator[Document]:
    """The documents of a source.

    `chat_share` of the prompts whose answers may stand alone are written as chats; the others' answers are
    plain texts. An answer that means nothing without its prompt is always in a chat.
    """
    if tokenizer.eos is None:
        raise DataError(
            f"the tokenizer {tokenizer.source} has no end of text",
            hint="Documents could not be told apart. Use a tokenizer with an end token.",
        )
    if not 0 <= chat_share <= 1:
        raise UsageError(f"a chat share of {chat_share:g}; allowed: 0 (no chats) to 1 (all that can be)")
    begin = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    conversations = Conversations(template, tokenizer)
    for record in read_records(source.path):
        count = _count(record, source.times)
        if not count:
            continue
        try:
            ids, answers = _encoded(record, tokenizer, conversations, chat_share=chat_share)
        except TokenizerError as error:
            raise DataError(f"{record.file}:{record.line}: {error.message}", hint=error.hint) from None
        if not ids:
            continue
        if ids[0] != begin:
            ids, answers = [begin, *ids], [False, *answers]
        ids.append(tokenizer.eos)
        answers.append(False)
        name = f"{source.name}/{record.kind}" if record.kind else source.name
        for _ in range(count):
            yield Document(ids=ids, answers=answers, source=name)


def _encoded(
    record: Record, tokenizer: Tokenizer, conversations: Conversations, *, chat_share: float
) -> tuple[list[int], list[bool]]:
    match record:
        case ChatRecord():
            return conversations.encode(record.messages)
        case PromptRecord() if not record.stands_alone or _drawn(record, "chat") < chat_share:
            return conversations.encode_answer(record.prompt, record.completion)
        case PromptRecord():
            ids = tokenizer.encode(record.completion)
        case TextRecord():
            ids = tokenizer.encode(record.text)
    return ids, [False] * len(ids)


def _texts(record: Record) -> Iterator[str]:
    match record:
        case TextRecord():
            yield record.text
        case PromptRecord():
            yield record.prompt
            yield record.completion
        case ChatRecord():
            for message in record.messages:
                content = message.get("content")
                if isinstance(content, str):
                    yield content


def _count(record: Record, times: float) -> int:
    """How often a record counts."""
    whole = int(times)
    return whole if whole == times else whole + (_drawn(record, "times") < times - whole)


def _drawn(record: Record, what: Literal["chat", "times"]) -> float:
    """A number in 0 … 1 that is the record's own, whatever stands around it; another one for another draw.

    With one number for both, half of a file would be the half that is written as chats.
    """
    text = "\0".join(_texts(record)).encode("utf-8", errors="surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=what.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _times(given: str) -> tuple[Path, float]:
    path, star, number = given.rpartition("*")
    if not star or Path(given).exists():
        return Path(given), 1.0
    try:
        times = float(number)
    except ValueError:
        times = -1.0
    if not 0 < times < MOST_TIMES:
        raise UsageError(
            f"{given!r}: {number!r} is not a number of times above 0 and below {MOST_TIMES}",
            hint="Write a source so: stories.jsonl*2",
        )
    return Path(path), times


def _below(folder: Path) -> list[Path]:
    """The data files in a folder and the folders in it; what is hidden stays so."""
    files = (file for file in folder.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
    return sorted(
        file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _name(file: Path) -> str:
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if file.name.endswith(suffix))
    return file.name.removesuffix(suffix)


_ALLOWED = f"A data file's name ends in {', '.join(SUFFIXES)}."
