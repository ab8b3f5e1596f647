"""A control group with a limit of memory, in which a process can be put: pages of files count as its own.

No other limit counts them, and without that what is read of a file would stay in memory for nothing.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from configs.errors import ChimeraError
from quant.control_groups import GroupVersion, group_folders

_LIMITS: dict[GroupVersion, str] = {1: "memory.limit_in_bytes", 2: "memory.max"}
_PEAKS: dict[GroupVersion, str] = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
_NO_GROUP = (
    "Run the command where a group with the memory controller is yours: systemd-run --scope -p Delegate=yes"
)


class MemoryGroup:
    """A group below this process's own."""

    def __init__(self, folder: Path, version: GroupVersion) -> None:
        self._folder = folder
        self._version: GroupVersion = version

    @property
    def members(self) -> Path:
        """The file to which a process writes its number to come in."""
        return self._folder / "cgroup.procs"

    @property
    def peak_bytes(self) -> int:
        """The most that it has taken, with pages of files; 0 where the system does not tell."""
        with suppress(OSError, ValueError):
            return int((self._folder / _PEAKS[self._version]).read_text())
        return 0


@contextmanager
def memory_group(name: str, *, limit_bytes: int, root: Path = Path("/")) -> Generator[MemoryGroup]:
    """A new group with a limit. It goes when the block ends, and all of its processes must have ended."""
    groups = list(group_folders(root, "memory"))
    if not groups:
        raise ChimeraError("this system has no control groups of memory", hint=_NO_GROUP)
    version, own = groups[0]
    folder = own / f"{name}-{os.getpid()}"
    for left in own.glob(f"{name}-*"):
        # A killed process leaves its group; one that has members cannot be removed.
        with suppress(OSError):
            left.rmdir()
    try:
        folder.mkdir()
    except OSError as error:
        raise _refused(folder, error) from error
    try:
        try:
            (folder / _LIMITS[version]).write_text(str(limit_bytes))
        except OSError as error:
            raise _refused(folder, error) from error
        yield MemoryGroup(folder, version)
    finally:
        folder.rmdir()


def _refused(folder: Path, error: OSError) -> ChimeraError:
    return ChimeraError(
        f"no control group with a limit of memory can be made: {folder}: {error.strerror or error}",
        hint=_NO_GROUP,
    )
