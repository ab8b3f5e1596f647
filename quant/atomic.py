"""Files that are either whole or not there."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well.

    It is written beside `path`, in the same file system, and is on the disk before it takes the name; a
    reader sees the old file or the new one, and who has the old one mapped keeps it. An exception removes the
    new file. A killed process leaves it, under a hidden name that ends in `.partial`.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the new name itself on the disk; only POSIX systems can open a folder for it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
