"""Writing a `.cza` file: one process appends to a log, and whatever kills it leaves a log that can be gone on
with. `quant.adapter` says what the file is.

    with AdapterLog.begin(path, header) as log: log.append(Record(…))
    with AdapterLog.go_on(path, header) as log: for record in log.records: …
"""

import errno
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, Self

from configs.errors import AdapterError, ChimeraError, UsageError
from quant.adapter import (
    LARGEST_BYTES,
    STEP,
    Adapter,
    AdapterHeader,
    Record,
    header_bytes,
    header_crc,
    is_cut_header,
    other_base,
    packed_record,
    read_bytes,
    understood,
)
from quant.atomic import atomic_file

if sys.platform != "win32":
    import fcntl

SYNC_SECONDS = 1.0
"""A lost machine loses the records of so long; a killed process loses none."""


class AdapterLog:
    """A log that is being written. Nobody else writes it meanwhile."""

    def __init__(self, path: Path, file: BinaryIO, adapter: Adapter) -> None:
        self.path, self.header = path, adapter.header
        self.records = adapter.records
        """What it held when it was opened."""
        self.cut_bytes = adapter.torn_bytes
        """What was cut off then."""
        self._file = file
        self._crc = header_crc(adapter.header)
        self._size: int = adapter.whole_bytes
        self._steps: int = adapter.num_steps
        self._synced = time.monotonic()

    @classmethod
    def begin(cls, path: Path, header: AdapterHeader) -> Self:
        """A new log, where none may be yet but what a writer left that was killed before its header."""
        begin = header_bytes(header)
        file = _opened_anew(path)
        try:
            _lock(file, path)
            check_free(path)
        except BaseException:
            file.close()
            raise
        try:
            file.truncate(0)
            _write(file, begin)
            os.fsync(file.fileno())
        except BaseException as error:
            file.close()
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _not_written(path, error) from error
            raise
        adapter = Adapter(path=path, header=header, records=(), whole_bytes=len(begin), torn_bytes=0)
        return cls(path, file, adapter)

    @classmethod
    def go_on(cls, path: Path, header: AdapterHeader | None = None) -> Self:
        """A log that is there; with a header, one that was begun with the same. A torn end is cut off."""
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            raise AdapterError(f"there is no file {path}", hint="Begin a run without --resume.") from None
        except OSError as error:
            raise AdapterError(f"cannot open {path}: {error.strerror or error}") from error
        try:
            _lock(file, path)
            adapter = understood(path, read_bytes(file))
            if header is not None:
                check_same(adapter.header, header, path=path)
            file.truncate(adapter.whole_bytes)
            file.seek(adapter.whole_bytes)
        except BaseException:
            file.close()
            raise
        return cls(path, file, adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return self._size

    @property
    def num_steps(self) -> int:
        """Steps that it holds."""
        return self._steps

    def append(self, record: Record) -> None:
        """Add a record. When this returns, killing the process does not lose it."""
        assert record.step == self._steps, "steps come one after another"
        data = packed_record(record, self.header, self._crc)
        if self._size + len(data) > LARGEST_BYTES:
            raise ChimeraError(
                f"{self.path} would be larger than {LARGEST_BYTES >> 20} MiB, and nobody would read it",
                hint="Begin another log on top of it: --adapter.",
            )
        try:
            _write(self._file, data)
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self.sync()
        except OSError as error:
            # Half a record would be cut by the next writer anyway; this keeps the file readable as it is.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise _not_written(self.path, error) from error
        self._size += len(data)
        self._steps += record.kind == STEP

    def sync(self) -> None:
        """Have the disk hold all of it."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """End the writing. What could not be brought to the disk is told."""
        if self._file.closed:
            return
        try:
            self.sync()
        except OSError as error:
            raise _not_written(self.path, error) from error
        finally:
            self._file.close()


def write_adapter(path: Path, adapter: Adapter, *, num_steps: int | None = None) -> None:
    """A copy of a log, or of its first steps and what lies between them; whole, or not there."""
    kept = adapter.records if num_steps is None else first_steps(adapter.records, num_steps)
    begin = header_bytes(adapter.header)
    try:
        with atomic_file(path) as file:
            file.write(begin)
            for record in kept:
                file.write(packed_record(record, adapter.header, header_crc(adapter.header)))
    except OSError as error:
        raise _not_written(path, error) from error


def first_steps(records: tuple[Record, ...], num_steps: int) -> tuple[Record, ...]:
    """Those up to so many steps, with the looks that followed the last of them."""
    return tuple(
        record
        for record in records
        if (record.step < num_steps if record.kind == STEP else record.step <= num_steps)
    )


def check_same(found: AdapterHeader, wanted: AdapterHeader, *, path: Path) -> None:
    """Refuse to go on with a log that was begun with other things than these."""
    if found.base != wanted.base:
        raise other_base(path, found.base, wanted.base)
    unlike = [
        f"{name} {_short(getattr(found, name))}, not {_short(getattr(wanted, name))}"
        for name in ("method", "seed", "numbers", "data", "beneath")
        if getattr(found, name) != getattr(wanted, name)
    ]
    for name in dict.fromkeys((*found.settings, *wanted.settings)):
        one, other = found.settings.get(name), wanted.settings.get(name)
        if one != other:
            unlike.append(f"{name} {one}, not {other}")
    if unlike:
        raise AdapterError(
            f"{path} was begun with {'; '.join(unlike)}",
            hint="Go on with the same --data, --val or --val-share, --scorer and --adapter, or begin anew.",
        )


def check_free(path: Path) -> None:
    """Refuse a path where anything lies that a run which was killed at its beginning did not leave."""
    if not path.exists():
        return
    is_left = False
    if path.is_file():
        try:
            with path.open("rb") as file:
                is_left = is_cut_header(read_bytes(file))
        except OSError as error:
            raise _not_written(path, error) from error
    if not is_left:
        raise UsageError(f"{path} is there already", hint=f"Go on with it: --resume {path}")


def _opened_anew(path: Path) -> BinaryIO:
    """A file for a new log, which may be there, for whoever has its lock to look into."""
    check_free(path)
    try:
        # Without cutting it: another process may have begun meanwhile.
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", 0)
    except OSError as error:
        raise _not_written(path, error) from error


def _lock(file: BinaryIO, path: Path) -> None:
    """Be its only writer; the lock dies with the process."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"another process writes {path} now", hint="Wait until it ends, or name another file."
        ) from None


def _write(file: BinaryIO, data: bytes) -> None:
    """All of it: the system may take a part where a disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _not_written(path: Path, error: OSError) -> ChimeraError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ChimeraError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="Make room on the disk, then go on with --resume: no step before is lost."
        if is_full
        else "Name a place that can be written.",
    )


def _short(value: object) -> str:
    return str(value)[:24] if value else "none"
