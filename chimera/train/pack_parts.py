"""A file cut into parts of a bounded size, for ways that carry no large file; and the parts read as one.

A part is a line of JSON and then its bytes. The line names the part's number, the digest of its bytes, and
the digest of the whole, by which parts of different files are told apart.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from io import BufferedRandom, BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from configs.errors import ModelError, UsageError
from configs.strict_json import parse_object
from quant.atomic import atomic_file

FORMAT = "chimera-part"
FORMAT_VERSION = 1
LINE_BYTES = 512
PART_NAME = re.compile(r"(?P<base>.+)\.(?P<part>\d{2,6})-of-(?P<parts>\d{2,6})", re.DOTALL)
HINT = "Copy the parts again from where they were written."


class _Part(NamedTuple):
    """A part whose digest was found right: where its bytes begin, and the whole that it belongs to."""

    path: Path
    begin: int
    whole: str


def base_path(path: Path) -> Path:
    """The name of the whole, from itself or from the name of one of its parts."""
    match = PART_NAME.fullmatch(path.name)
    return path.with_name(match["base"]) if match else path


def part_paths(base: Path) -> list[Path]:
    """The parts of a whole that are there, whatever number each belongs to."""
    if not base.parent.is_dir():
        return []
    return sorted(one for one in base.parent.iterdir() if base_path(one) == base != one)


def write_parts(base: Path, whole: BufferedRandom, *, num_bytes: int, part_bytes: int) -> tuple[Path, ...]:
    """Cut an open file; no part is larger than `part_bytes`. All of them appear at the end, or none."""
    room = part_bytes - LINE_BYTES
    if room < LINE_BYTES:
        raise UsageError(f"parts of {part_bytes} bytes; at least {2 * LINE_BYTES} are needed")
    num_parts = -(-num_bytes // room)
    whole.seek(0)
    whole_digest = hashlib.file_digest(whole, "sha256").hexdigest()
    whole.seek(0)
    paths = _names(base, f"{num_parts:02d}")
    with ExitStack() as stack:
        for part, path in enumerate(paths):
            data = whole.read(room)
            line = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "part": part,
                "parts": num_parts,
                "whole": whole_digest,
                "bytes": len(data),
                "digest": hashlib.sha256(data).hexdigest(),
            }
            file = stack.enter_context(atomic_file(path))
            file.write(json.dumps(line).encode() + b"\n")
            file.write(data)
    return paths


def open_parts(base: Path) -> tuple[BufferedReader, int]:
    """One stream over all parts and its size, once each part is found whole and all belong together."""
    paths = part_paths(base)
    counts = sorted({path.name.rpartition("-of-")[2] for path in paths})
    if len(counts) != 1:
        _fail(base, f"there are parts of several files: of {' and of '.join(counts) or 'none'}")
    missing = [path.name for path in _names(base, counts[0]) if path not in paths]
    if missing:
        _fail(base, f"missing: {', '.join(missing)}")
    parts = [_checked(path, part) for part, path in enumerate(paths)]
    by_whole: dict[str, list[str]] = {}
    for part in parts:
        by_whole.setdefault(part.whole, []).append(part.path.name)
    if len(by_whole) > 1:
        groups = "; ".join(", ".join(names) for names in by_whole.values())
        _fail(base, f"the parts belong to different files, namely together: {groups}")
    stream = _Joined(parts)
    return BufferedReader(stream), stream.num_bytes


def _checked(path: Path, part: int) -> _Part:
    with path.open("rb") as file:
        raw = file.readline(LINE_BYTES)
        if not raw.endswith(b"\n"):
            _fail(path, "it is truncated, or no part")
        line = parse_object(raw, source=str(path), error=ModelError)
        if (line.get("format"), line.get("format_version")) != (FORMAT, FORMAT_VERSION):
            _fail(path, "it is no part that this version reads")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        num_bytes = file.tell() - len(raw)
    if line.get("bytes") != num_bytes:
        _fail(path, f"it is truncated or too long: {num_bytes} bytes of {line.get('bytes')!a}")
    if line.get("digest") != digest:
        _fail(path, "it is damaged: its bytes do not have the digest that it states")
    if line.get("part") != part:
        _fail(path, f"it holds part {line.get('part')!a}, which is not what its name says")
    return _Part(path, len(raw), str(line.get("whole")))


def _names(base: Path, parts: str) -> tuple[Path, ...]:
    """The names of all parts, in order; `parts` is their number as it stands in a name."""
    return tuple(
        base.with_name(f"{base.name}.{part:0{len(parts)}d}-of-{parts}") for part in range(int(parts))
    )


class _Joined(RawIOBase):
    """The bytes of the parts, one after another."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.num_bytes = sum(part.path.stat().st_size - part.begin for part in parts)
        self._waiting = list(parts)
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while True:
            if self._file is None:
                if not self._waiting:
                    return 0
                part = self._waiting.pop(0)
                self._file = part.path.open("rb")
                self._file.seek(part.begin)
            data = self._file.read(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            self._close_part()

    def close(self) -> None:
        self._close_part()
        super().close()

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _fail(path: Path, what: str) -> NoReturn:
    raise ModelError(f"{path}: {what}", hint=HINT)
