"""How an expert's bytes come from the disk into memory, in three ways that are held against each other.

    direct    past the page cache, straight into the slot: no copy, no second place in memory
    buffered  through the page cache, told that reads are at random
    mapped    copied out of a map of the file, page fault by page fault

Each is called by several threads at once and gives up the interpreter while it waits.
"""

import errno
import hashlib
import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from chronos_moe.store.manifest import Place
from configs.errors import ClusterError, UsageError

SIMULATED_MS = "CHRONOS_SIM_SSD_MS"
"""A variable of the environment: how long a read takes at least, for tests of what waits for it."""
_LONGEST_SIMULATED_MS = 60_000


class Reader(Protocol):
    """Reads experts out of the files of a folder."""

    def read(self, place: Place, into: memoryview) -> None:
        """Fill a slot, or raise OSError."""
        ...

    def close(self) -> None:
        """Give up the files."""
        ...


class _Files:
    """Open files of a folder, of which a block is read by one call of the system."""

    def __init__(self, paths: Sequence[Path], *, flags: int = 0) -> None:
        self.handles: list[int] = []
        """By the number of the cluster."""
        if not hasattr(os, "preadv"):
            raise OSError(errno.ENOTSUP, "this system has no reads into given memory")
        try:
            for path in paths:
                self.handles.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close them; closing twice does no harm."""
        while self.handles:
            os.close(self.handles.pop())

    def _fill(self, place: Place, into: memoryview) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(self.handles[place.cluster], [into[done:]], place.offset + done)
            if count == 0:
                raise OSError(errno.EIO, "the file ends before the expert does")
            done += count


class Direct(_Files):
    """Past the page cache."""

    def __init__(self, paths: Sequence[Path]) -> None:
        flag = getattr(os, "O_DIRECT", None)
        if flag is None:
            raise OSError(errno.ENOTSUP, "this system has no reading past the page cache")
        super().__init__(paths, flags=flag)

    def read(self, place: Place, into: memoryview) -> None:
        """One request of the whole block; what a disk gives short is asked for again."""
        self._fill(place, into)


class Buffered(_Files):
    """Through the page cache."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths)
        if hasattr(os, "posix_fadvise"):
            for handle in self.handles:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, place: Place, into: memoryview) -> None:
        """A copy out of the page cache, where the system reads what is not there."""
        self._fill(place, into)


class Mapped:
    """Out of maps of the files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._maps: list[mmap.mmap] = []
        for path in paths:
            with path.open("rb") as file:
                self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, place: Place, into: memoryview) -> None:
        """A copy that reads as it goes."""
        found = self._maps[place.cluster]
        if hasattr(mmap, "MADV_WILLNEED"):
            found.madvise(mmap.MADV_WILLNEED, place.offset, len(into))
        with memoryview(found) as whole:
            into[:] = whole[place.offset : place.offset + len(into)]

    def close(self) -> None:
        """Give up the maps."""
        self._maps.clear()


ReaderName = Literal["direct", "buffered", "mapped"]
READERS: dict[ReaderName, Callable[[Sequence[Path]], Reader]] = {
    "direct": Direct,
    "buffered": Buffered,
    "mapped": Mapped,
}


def handles_of(reader: Reader) -> tuple[int, ...] | None:
    """The open files of a reader that reads blocks as they lie there, and does no more; else None."""
    return tuple(reader.handles) if isinstance(reader, _Files) else None


def open_reader(name: ReaderName, paths: Sequence[Path], *, is_checked: bool = False) -> Reader:
    """A way of reading some files; one that checks each block, and one that is slow, where that is asked."""
    try:
        found: Reader = READERS[name](paths)
    except OSError as error:
        where = error.filename or (paths[0] if paths else "")
        raise ClusterError(f"{where} cannot be opened for {name} reads: {error.strerror or error}") from error
    if is_checked:
        found = Checked(found)
    delay_ms = simulated_ms()
    return Slow(found, least_ms=delay_ms) if delay_ms else found


class Checked:
    """Refuses a block whose bytes are not those that were packed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, place: Place, into: memoryview) -> None:
        """Read, and compare digests."""
        self._reader.read(place, into)
        if hashlib.sha256(into).hexdigest() != place.digest:
            raise OSError(errno.EIO, "the expert's bytes are not those that were packed")

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class Slow:
    """A disk whose reads take some time at least."""

    def __init__(self, reader: Reader, *, least_ms: float) -> None:
        self._reader, self._least_s = reader, least_ms / 1000

    def read(self, place: Place, into: memoryview) -> None:
        """Read, and wait for the rest of the time."""
        until = time.monotonic() + self._least_s
        self._reader.read(place, into)
        time.sleep(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


def simulated_ms() -> float:
    """How slow the disk is to be, by the environment; 0 is as it is."""
    text = os.environ.get(SIMULATED_MS, "")
    if not text:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _LONGEST_SIMULATED_MS:
        raise UsageError(
            f"{SIMULATED_MS}={text!r}; a number of milliseconds up to {_LONGEST_SIMULATED_MS} is needed"
        )
    return value
