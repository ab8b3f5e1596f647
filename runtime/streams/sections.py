"""A file of named sections, each with a checksum: what `.state` files are made of.

    0    16 bytes    "CHIMERA.STATE" and zeros
    16   uint32      version
    20   uint32      number of sections
    24   uint32      CRC-32 of the table
    28   uint32      0
    32   table       40 bytes a section: name in 16 bytes, offset and size in uint64, CRC-32 in uint32, a zero

All numbers are little-endian. Sections begin at multiples of 64, in the order of the table, and the file ends
with the last of them. A reader maps the file and computes every checksum before it believes a byte.
"""

import mmap
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from configs.errors import StateError
from quant.atomic import atomic_file

MAGIC = b"CHIMERA.STATE\0\0\0"
VERSION = 1
ALIGNMENT = 64
MOST_SECTIONS = 64
LONGEST_NAME = 16

_PREFIX = struct.Struct("<16sIIII")
_ENTRY = struct.Struct("<16sQQII")
_HINT = "It was cut or changed since it was written. Take another copy of it."


def write_sections(path: Path, sections: Mapping[str, bytes | memoryview]) -> None:
    """Write the file whole, or leave what was there."""
    offset, entries = _aligned(_PREFIX.size + _ENTRY.size * len(sections)), list[bytes]()
    for name, data in sections.items():
        entries.append(_ENTRY.pack(name.encode("ascii"), offset, len(data), zlib.crc32(data), 0))
        offset = _aligned(offset + len(data))
    table = b"".join(entries)
    with atomic_file(path) as file:
        file.write(_PREFIX.pack(MAGIC, VERSION, len(sections), zlib.crc32(table), 0) + table)
        for data in sections.values():
            file.write(b"\0" * (_aligned(file.tell()) - file.tell()))
            file.write(data)


def read_sections(path: Path) -> dict[str, memoryview]:
    """The sections of a file, views of its map; whatever is not as it was written is refused."""
    mapped = _mapped(path)
    if len(mapped) < _PREFIX.size or mapped[: len(MAGIC)] != MAGIC:
        raise StateError(f"{path} is no saved state", hint="Name a file that --save or /save wrote.")
    _, version, count, table_crc, _ = _PREFIX.unpack_from(mapped)
    if version != VERSION:
        raise StateError(
            f"{path} is a state of version {version}, and this program reads version {VERSION}",
            hint="Read it with the version of Chimera that wrote it.",
        )
    begin = _PREFIX.size + _ENTRY.size * count
    if not 0 < count <= MOST_SECTIONS or begin > len(mapped):
        raise StateError(f"{path} is damaged: a table of {count} sections", hint=_HINT)
    table = mapped[_PREFIX.size : begin]
    if zlib.crc32(table) != table_crc:
        raise StateError(f"{path} is damaged: the table of sections", hint=_HINT)
    view, found, expected = memoryview(mapped), dict[str, memoryview](), _aligned(begin)
    for name_bytes, offset, num_bytes, crc, _ in _ENTRY.iter_unpack(table):
        name = name_bytes.rstrip(b"\0").decode("ascii", "replace")
        if name in found or offset != expected or offset + num_bytes > len(mapped):
            raise StateError(f"{path} is damaged: the place of the section {name!r}", hint=_HINT)
        found[name] = view[offset : offset + num_bytes]
        if zlib.crc32(found[name]) != crc:
            raise StateError(f"{path} is damaged: the section {name!r} has another checksum", hint=_HINT)
        end, expected = offset + num_bytes, _aligned(offset + num_bytes)
        if len(found) == count and end != len(mapped):
            raise StateError(f"{path} is damaged: {len(mapped) - end} bytes too many", hint=_HINT)
    return found


def is_state_file(path: Path) -> bool:
    """Whether a file begins as a saved state does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise StateError(f"{path} is empty", hint="Name a file that --save or /save wrote.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise StateError(f"there is no file {path}", hint="Saved states: chimera state ls") from None
    except OSError as error:
        raise StateError(f"cannot open {path}: {error.strerror or error}") from error


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
