"""The folder in which this machine's compiled kernels are kept, and what else was learnt here.

Whatever lies in it can be made again: a folder that cannot be written costs time, and is told in notes.
"""

import atexit
import os
import shutil
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from quant.atomic import atomic_file

_notes: list[str] = []


def note(words: str) -> None:
    """Keep in words what went wrong and was worked around."""
    if words not in _notes:
        _notes.append(words)


def notes() -> tuple[str, ...]:
    """What went wrong and was worked around, for `chimera doctor`."""
    return tuple(_notes)


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Where compiled kernels and what was learnt about this machine are kept; always writable."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return _writable(Path(base) / "chimera")
    except (OSError, RuntimeError) as error:
        note(f"the user's cache folder cannot be written ({error}); a temporary one is used")
    return _temporary_folder()


def remember(path: Path, data: bytes) -> bool:
    """Write a file of the cache, whole or not at all; a full disk costs time at the next start, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        note(f"{path} could not be written ({error}); it is made again when it is needed")
        return False
    return True


def _writable(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    return folder


def _temporary_folder() -> Path:
    """One that outlives the process, if it is surely ours (its files are unpickled); else one of our own."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    shared = Path(tempfile.gettempdir()) / f"chimera-{user}"
    try:
        _writable(shared)
        found = shared.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022:
            return shared
        note(f"{shared} belongs to somebody else; kernels are compiled anew in each run")
    except OSError as error:
        note(f"{shared} cannot be written ({error}); kernels are compiled anew in each run")
    private = Path(tempfile.mkdtemp(prefix="chimera-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private
