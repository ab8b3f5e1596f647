"""Files that are either whole or not there."""

import contextlib
import glob
import os
import secrets
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well.

    It is written beside `path`, in the same file system, and is on the disk before it takes the name; a
    reader sees the old file or the new one, and who has the old one mapped keeps it. An exception removes the
    new file. A killed process leaves it, under a hidden name that ends in `.partial`, until the next writer
    of that name comes.
    """
    sweep_unfinished(path.parent, names=glob.escape(path.name))
    file = _begun(path)
    beside = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":
                # While it is still locked, so that nobody takes it for one that was left.
                beside.replace(path)
        if sys.platform == "win32":
            beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def sweep_unfinished(folder: Path, *, names: str) -> None:
    """Remove what killed writers of some files left in a folder; `names` is a pattern of their names.

    A writer holds the lock of its file, and the lock dies with its process.
    """
    if sys.platform == "win32":
        return
    for left in folder.glob(f".{names}.*.partial"):
        # Where files cannot be opened or locked, nobody can tell: they stay.
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def _begun(path: Path) -> BinaryIO:
    """The new file beside a path, open and locked."""
    while True:
        beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        file = beside.open("xb")
        if sys.platform == "win32":
            return file
        # A file system without locks has no sweeper either.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        # Swept away between its making and its lock.
        file.close()


def _sync_folder(folder: Path) -> None:
    """Put the new name itself on the disk; only POSIX systems can open a folder for it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
