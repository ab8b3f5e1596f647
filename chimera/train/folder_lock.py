"""One process at a time in a folder, held by a lock that dies with its process."""

import fcntl
import os
import weakref
from pathlib import Path

from configs.errors import ChimeraError

NAME = "lock"


class FolderLock:
    """The lock on a folder, from the making of this object to `release` or the end of the process.

    The lock belongs to the open file and not to its content: what a dead process wrote there is no obstacle.
    The file stays for ever, as to remove it would let two processes lock two files of one name.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
        except BlockingIOError:
            holder = _holder(os.pread(self._handle, 200, 0))
            self._close()
            raise ChimeraError(
                f"{folder} is in use by {holder}",
                hint="Wait until it ends, or stop it; or give this run a folder of its own.",
            ) from None
        except OSError:
            self._close()
            raise
        _held.add(self)

    def release(self) -> None:
        """Let the next one in; a second call does nothing."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _leave_to_parent() -> None:
    """A forked child has the open file too: a loader that outlives its killed parent would keep the lock."""
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_leave_to_parent)


def _holder(content: bytes) -> str:
    pid, _, host = content.decode(errors="replace").strip().partition(" ")
    if not pid.isdecimal():
        return "another process, which has not yet written its number"
    return f"process {pid}" if host == os.uname().nodename else f"process {pid} on {host!a}"
