"""A folder that is either whole or not there: written under a hidden name, it takes its own at the end."""

import contextlib
import glob
import os
import secrets
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import ChimeraError, UsageError

if sys.platform != "win32":
    import fcntl


@contextmanager
def whole_folder(out: Path) -> Generator[Path]:
    """A new folder to write into, which becomes `out` when the block ends well.

    `out` must not be there yet, or be empty. An exception removes what was written; what a killed process
    leaves ends in `.partial`, and the next writer of that name removes it.
    """
    check_free(out)
    with errors_named(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        unfinished = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        unfinished.mkdir()
    try:
        with errors_named(out), _locked(unfinished):
            with _reads_named(unfinished):
                yield unfinished
            for path in (*unfinished.rglob("*"), unfinished):
                _sync(path)
            unfinished.rename(out)
            _sync(out.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def check_free(out: Path) -> None:
    """Refuse a name under which something lies already, and what is no name of a new folder."""
    if out.name in ("", ".."):
        raise UsageError(f"{out} is no name for a new folder", hint="Name a folder that is not there yet.")
    with errors_named(out):
        is_taken = out.is_symlink() or out.exists()
        if is_taken and not (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
            raise UsageError(f"{out} is there already", hint="Name a folder that is not there yet.")


@contextmanager
def errors_named(path: Path) -> Generator[None]:
    """What the system refuses while `path` is written becomes an error that says so."""
    try:
        yield
    except OSError as error:
        raise ChimeraError(
            f"cannot write {path}: {error.strerror or error}",
            hint="Check the folder, its permissions and free space.",
        ) from error


@contextmanager
def _reads_named(folder: Path) -> Generator[None]:
    """A file elsewhere that cannot be read meanwhile becomes an error that names that file."""
    try:
        yield
    except OSError as error:
        # Copying names two files, and says not which of them it failed on.
        if not isinstance(error.filename, str) or error.filename2 is not None:
            raise
        if Path(error.filename).is_relative_to(folder):
            raise
        raise ChimeraError(
            f"cannot read {error.filename}: {error.strerror or error}",
            hint="Check the path and its permissions.",
        ) from error


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold the lock of a folder, which dies with its process: so a sweeper knows who is at work."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks has no sweeper either.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk; only POSIX systems can open a folder for it."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(out: Path) -> None:
    if sys.platform == "win32":
        return
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        # What cannot be opened or locked may be somebody's at work: it stays.
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(handle)
