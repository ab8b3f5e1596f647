"""Whether a model's files are as they were written: read whole at their first use here, then remembered.

A file's header is checked each time, its data only where this machine has not yet read it: a torn copy shows
at once, and a start costs no reading. A file that was written since is another file, by its size and time.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from configs.errors import ContainerError
from quant import cache

MEMORY_NAME = "whole-files"
MOST_REMEMBERED = 200

Progress = Callable[[int, int], None]
"""Is given how many bytes are read, and how many there are."""


class Damage(Protocol):
    """What is not as it was written."""

    @property
    def tensor(self) -> str: ...
    @property
    def part(self) -> str: ...
    @property
    def what(self) -> str: ...


class Checkable(Protocol):
    """A file that can be looked through for damage."""

    path: Path

    @property
    def digest(self) -> str:
        """The name of what should be in it."""
        ...

    def verify(self, *, progress: Callable[[int], None] | None = None) -> Sequence[Damage]:
        """Read all of it."""
        ...


def check_whole(files: Sequence[Checkable], *, anew: bool = False, progress: Progress | None = None) -> None:
    """Refuse files of which any byte is not as it was written. `anew` reads those that are known as well."""
    known = _known()
    # Named before they are read: what is written meanwhile is another file.
    named = [(file, _name(file)) for file in files]
    unknown = [(file, name) for file, name in named if anew or name not in known]
    total, read = sum(file.path.stat().st_size for file, _ in unknown), 0

    def advance(num_bytes: int) -> None:
        nonlocal read
        read += num_bytes
        if progress is not None:
            progress(read, total)

    for file, _ in unknown:
        problems = [f"{found.tensor} ({found.part}): {found.what}" for found in file.verify(progress=advance)]
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise ContainerError(
                f"{file.path} is damaged: {problems[0]}{more}",
                hint="Copy it again from where it came, or export it again.",
            )
    names = [name for _, name in unknown]
    if names:
        kept = [*(name for name in known if name not in names), *names][-MOST_REMEMBERED:]
        cache.remember(cache.cache_folder() / MEMORY_NAME, "".join(f"{name}\n" for name in kept).encode())


def _known() -> list[str]:
    try:
        return (cache.cache_folder() / MEMORY_NAME).read_text(encoding="ascii", errors="replace").split()
    except OSError:
        # Nothing is remembered, or nothing can be.
        return []


def _name(file: Checkable) -> str:
    """What tells a file of some moment from all others, without reading it."""
    found = file.path.stat()
    # The time of the last change cannot be set back, as that of the last writing can.
    moment = f"{found.st_dev}\n{found.st_ino}\n{found.st_size}\n{found.st_mtime_ns}\n{found.st_ctime_ns}"
    words = f"{os.path.realpath(file.path)}\n{moment}\n{file.digest}"
    return hashlib.sha256(words.encode("utf-8", "surrogateescape")).hexdigest()[:32]
