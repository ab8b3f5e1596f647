"""A file of machine code: the objects of one level, what each was made from, and a digest of it all.

It is data, read whole or refused. What made it is told for people; whether a kernel's object is stale is told
by the digests of its sources.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from configs.errors import ChimeraError

FOLDER = Path(__file__).resolve().parent / "objects"
"""Where the archives of an installation lie, one a level. They are made, not written by people."""
SUFFIX = ".objects"

_MAGIC = b"chimera kernels 1\n"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_MOST_BYTES = 1 << 28


class ArchiveError(ChimeraError):
    """A file that is no whole archive of kernels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A kernel's object, and the files that it was made from by their places in the archive's list."""

    code: bytes
    sources: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """The objects of one level."""

    level: str
    versions: Mapping[str, str]
    """Of what made it."""
    sources: tuple[tuple[str, str], ...]
    """Files by their paths from the root, and their digests."""
    objects: Mapping[str, Made]
    """By the names of the kernels."""


def path_of(level: str, *, folder: Path = FOLDER) -> Path:
    """Where a level's archive lies, if there is one."""
    return folder / f"{level}{SUFFIX}"


def to_bytes(archive: Archive) -> bytes:
    """The file of an archive; equal archives give equal bytes."""
    index: dict[str, Any] = {}
    begin = 0
    for name, made in sorted(archive.objects.items()):
        index[name] = [begin, len(made.code), list(made.sources)]
        begin += len(made.code)
    head = json.dumps(
        {
            "level": archive.level,
            "versions": dict(archive.versions),
            "sources": [list(pair) for pair in archive.sources],
            "objects": index,
        },
        separators=(",", ":"),
    ).encode()
    code = b"".join(made.code for _, made in sorted(archive.objects.items()))
    body = zlib.compress(_LENGTH.pack(len(head)) + head + code, 9)
    return _MAGIC + hashlib.sha256(body).digest() + body


def read_archive(path: Path) -> Archive:
    """The archive of a file, all of it checked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror or error}") from None
    start = len(_MAGIC) + _DIGEST_BYTES
    if not data.startswith(_MAGIC):
        raise ArchiveError(f"{path} is no archive of kernels of this version")
    body = data[start:]
    if hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
        raise ArchiveError(f"{path} is damaged")
    try:
        # A file with the right digest is as it was written; the checks that follow guard against our own
        # mistakes.
        whole = zlib.decompressobj().decompress(body, _MOST_BYTES)
        (size,) = _LENGTH.unpack_from(whole)
        head = cast("dict[str, Any]", json.loads(whole[_LENGTH.size : _LENGTH.size + size]))
        code = memoryview(whole)[_LENGTH.size + size :]
        index = cast("dict[str, tuple[int, int, list[int]]]", head["objects"])
        return Archive(
            level=str(head["level"]),
            versions=cast("dict[str, str]", head["versions"]),
            sources=tuple((str(name), str(digest)) for name, digest in head["sources"]),
            objects={
                name: Made(code=bytes(code[begin : begin + length]), sources=tuple(sources))
                for name, (begin, length, sources) in index.items()
            },
        )
    except (KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise ArchiveError(f"{path} is no archive of kernels: {type(error).__name__} {error}") from None
