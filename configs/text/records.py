"""The records of a data file: one JSON object a line (JSONL), or plain text with a line between documents.

    {"text": …}                            a text to learn from
    {"prompt": …, "completion": …}         an instruction and its answer
    {"prompt": …, "text": …}               the same, with an answer that may be read without its prompt
    {"messages": [{"role": …, "content": …}, …]}   a conversation

Other keys are left alone, and "kind" is kept. A bad line says where and what, and stops the reading unless
told to skip. Blank lines are ignored.
"""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from configs.errors import DataError, UsageError
from configs.strict_json import JsonValue, parse_object
from configs.text.record_lines import lines_of, open_data_file

OnError = Literal["stop", "skip"]

MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_PROBLEMS_KEPT = 20
END_OF_DOCUMENT = "<|endoftext|>"
ROLES = ("system", "developer", "user", "assistant", "tool")
SUFFIXES = (".jsonl", ".txt")

_SHAPES: dict[frozenset[str], str] = {
    frozenset({"text"}): "text",
    frozenset({"messages"}): "messages",
    frozenset({"prompt", "completion"}): "completion",
    frozenset({"prompt", "text"}): "text",
}
_KEYS = sorted({key for shape in _SHAPES for key in shape})
_ALLOWED = "text; or messages; or prompt with completion; or prompt with text"
_TYPE_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRecord:
    """A text to learn from."""

    text: str
    file: str
    line: int
    kind: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRecord:
    """An instruction and its answer."""

    prompt: str
    completion: str
    file: str
    line: int
    kind: str | None = None
    stands_alone: bool = False
    """Whether the answer came as "text": worth reading without its prompt, as a story is and a sum is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRecord:
    """A conversation: messages as a chat template takes them."""

    messages: tuple[dict[str, JsonValue], ...]
    file: str
    line: int
    kind: str | None = None


Record: TypeAlias = TextRecord | PromptRecord | ChatRecord


@dataclass(kw_only=True, slots=True)
class ReadReport:
    """What a reading met, filled as it goes on."""

    records: int = 0
    blank: int = 0
    """Blank lines and empty documents, which are ignored."""
    skipped: int = 0
    """Bad lines or documents left out."""
    problems: list[str] = field(default_factory=list[str])
    """The first MAX_PROBLEMS_KEPT messages about what was skipped."""


def read_records(
    path: str | os.PathLike[str],
    *,
    on_error: OnError = "stop",
    max_record_bytes: int = MAX_RECORD_BYTES,
    report: ReadReport | None = None,
) -> Iterator[Record]:
    """The records of a .jsonl or .txt file, each also as .zst, in order.

    A .txt file holds documents that end with a line `<|endoftext|>`; that line and the newline before it are
    not part of the text, and CRLF becomes LF. With on_error="skip", bad records are left out and counted in
    `report`; a file that cannot be read at all, or is damaged as a whole, always stops.
    """
    if on_error not in get_args(OnError):
        raise UsageError(f"on_error {on_error!r}; allowed: {', '.join(get_args(OnError))}")
    source = Path(path)
    suffix = Path(source.name.removesuffix(".zst")).suffix
    if suffix not in SUFFIXES:
        allowed = ", ".join((*SUFFIXES, *(known + ".zst" for known in SUFFIXES)))
        raise DataError(f"{source}: a data file named {suffix or 'without a suffix'}; allowed: {allowed}")
    read = _jsonl if suffix == ".jsonl" else _documents
    return _checked(read(source, max_record_bytes), on_error=on_error, report=report or ReadReport())


def _checked(
    found: Iterator[Record | DataError | None], *, on_error: OnError, report: ReadReport
) -> Iterator[Record]:
    """Count what is found: a record, what is wrong with one, or None for nothing."""
    for item in found:
        if item is None:
            report.blank += 1
        elif not isinstance(item, DataError):
            report.records += 1
            yield item
        elif on_error == "stop":
            raise item
        else:
            report.skipped += 1
            if len(report.problems) < MAX_PROBLEMS_KEPT:
                report.problems.append(item.message)


def _jsonl(path: Path, max_bytes: int) -> Iterator[Record | DataError | None]:
    source = str(path)
    with open_data_file(path) as file:
        for number, line, size in lines_of(file, max_bytes=max_bytes):
            if not line:
                yield _too_long(source, number, size=size, max_bytes=max_bytes)
            elif not line.strip():
                yield None
            else:
                yield _record_or_problem(line.rstrip(b"\r\n"), source=source, line=number)


def _record_or_problem(data: bytes, *, source: str, line: int) -> Record | DataError:
    try:
        return _record(data, source=source, line=line)
    except DataError as error:
        return error


def _record(data: bytes, *, source: str, line: int) -> Record:
    value = parse_object(data, source=source, error=DataError, first_line=line)
    place = f"{source}:{line}"
    shape = frozenset(key for key in _KEYS if key in value)
    if shape not in _SHAPES:
        raise DataError(f"{place}: keys {_listed(value)}; allowed: {_ALLOWED}", hint=_nearest(value))
    kind = _text(value, "kind", place=place) if value.get("kind") is not None else None
    if "messages" in shape:
        return ChatRecord(
            messages=_messages(value["messages"], place=place), file=source, line=line, kind=kind
        )
    main = _SHAPES[shape]
    text = _text(value, main, place=place)
    if not text:
        raise DataError(f"{place}: {main!r} is empty")
    if "prompt" not in shape:
        return TextRecord(text=text, file=source, line=line, kind=kind)
    prompt = _text(value, "prompt", place=place)
    return PromptRecord(
        prompt=prompt, completion=text, file=source, line=line, kind=kind, stands_alone=main == "text"
    )


def _messages(value: JsonValue, *, place: str) -> tuple[dict[str, JsonValue], ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: 'messages' is {_type_name(value)}; allowed: a list of one message or more")
    messages: list[dict[str, JsonValue]] = []
    for number, message in enumerate(value):
        where = f"{place}: messages[{number}]"
        if not isinstance(message, dict):
            raise DataError(f"{where} is {_type_name(message)}; allowed: an object with role and content")
        if message.get("role") not in ROLES:
            got = repr(message["role"])[:40] if "role" in message else "missing"
            raise DataError(f"{where}: 'role' is {got}; allowed: {', '.join(ROLES)}")
        is_call = message.get("tool_calls") and message.get("content") is None
        if not is_call and not isinstance(message.get("content"), str):
            got = _type_name(message["content"]) if "content" in message else "missing"
            raise DataError(f"{where}: 'content' is {got}; allowed: a string, or null beside tool_calls")
        messages.append(message)
    return tuple(messages)


def _text(value: dict[str, JsonValue], key: str, *, place: str) -> str:
    text = value[key]
    if not isinstance(text, str):
        raise DataError(f"{place}: {key!r} is {_type_name(text)}; allowed: a string")
    return text


def _documents(path: Path, max_bytes: int) -> Iterator[Record | DataError | None]:
    source = str(path)
    document = _Document(source)
    with open_data_file(path) as file:
        for number, line, size in lines_of(file, max_bytes=max_bytes):
            if line.rstrip(b"\r\n") == END_OF_DOCUMENT.encode():
                yield document.end()
                document = _Document(source)
            else:
                document.add(number, line, size, max_bytes=max_bytes)
    if document.first_line:
        yield document.end()


class _Document:
    """Lines up to the end of a document, and the first thing that is wrong with them."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: list[str] = []
        self._bytes = 0
        self._problem: DataError | None = None
        self.first_line = 0

    def add(self, number: int, line: bytes, size: int, *, max_bytes: int) -> None:
        self.first_line = self.first_line or number
        self._bytes += size
        if self._problem is None and self._bytes > max_bytes:
            self._problem = _too_long(self._source, self.first_line, size=self._bytes, max_bytes=max_bytes)
        if self._problem is not None:
            self._lines.clear()
            return
        data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        try:
            self._lines.append(data.decode("utf-8").replace("\r\n", "\n"))
        except UnicodeDecodeError as bad:
            self._problem = DataError(
                f"{self._source}:{number}:{bad.start + 1}: not UTF-8: byte 0x{data[bad.start]:02x} "
                f"({bad.reason}; the column counts bytes)"
            )

    def end(self) -> TextRecord | DataError | None:
        text = "".join(self._lines).removesuffix("\n")
        if self._problem is not None or not text.strip():
            return self._problem
        return TextRecord(text=text, file=self._source, line=self.first_line)


def _too_long(source: str, line: int, *, size: int, max_bytes: int) -> DataError:
    return DataError(
        f"{source}:{line}: a record of {size} bytes or more; at most {max_bytes} are allowed",
        hint="Split it into shorter records, or raise max_record_bytes.",
    )


def _listed(value: dict[str, JsonValue]) -> str:
    shown = [repr(key[:40]) for key in list(value)[:8]] + ["…"] * (len(value) > 8)
    return ", ".join(shown) or "none"


def _nearest(value: dict[str, JsonValue]) -> str:
    """A hint for a misspelt key."""
    for key in list(value)[:64]:
        near = difflib.get_close_matches(key[:40], _KEYS, n=1)
        if key not in _KEYS and near:
            return f"Did you mean {near[0]!r} instead of {key[:40]!r}?"
    return ""


def _type_name(value: JsonValue) -> str:
    return f"{_TYPE_NAMES[type(value)]}{' without items' if value == [] else ''}"
