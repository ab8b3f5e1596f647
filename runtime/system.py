"""What the operating system tells of a machine: its CPU, its caches, the memory that a process may take.

`root` holds /proc and /sys, so that another machine's can be read.
"""

import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quant.control_groups import allowed_cpus, group_folders, read_text

ROOT = Path("/")
_UNITS = {"K": 10, "M": 20, "G": 30}
_UNLIMITED_BYTES = 2**60
"""Version 1 of control groups writes a number of this order where there is no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A limit on memory that a control group sets, and what the group has taken of it."""

    limit_bytes: int
    used_bytes: int
    """Without what is only cached of files, which the system takes back when it needs to."""
    origin: str
    """The file that says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory as it is now."""

    total_bytes: int
    available_bytes: int
    """What a new process may take: of the machine's, and of what its groups leave."""
    machine_available_bytes: int
    group: Group | None
    """The group that leaves least, if one leaves less than the machine has."""

    @property
    def reason(self) -> str:
        """Why it is so much, in words."""
        if self.group is None:
            return "what the system calls available"
        return f"the limit in {self.group.origin}"


def cpu_name(*, root: Path = ROOT) -> str:
    """The CPU's name as its maker wrote it, or else what the system calls the machine."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def cache_bytes(*, root: Path = ROOT) -> int:
    """What the last caches of this process's CPUs hold together; 0 where the system does not tell."""
    caches: dict[str, int] = {}
    for cpu in allowed_cpus():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache"
        levels = [(int(read_text(index / "level") or 0), index) for index in sorted(folder.glob("index*"))]
        if levels:
            _, last = max(levels)
            caches[read_text(last / "shared_cpu_list") or str(cpu)] = _size(read_text(last / "size"))
    return sum(caches.values())


def memory(*, root: Path = ROOT) -> Memory:
    """The machine's memory, and the control groups' part in it."""
    total, available = _of_machine(root)
    tightest = min(_groups(root), key=_left, default=None)
    if tightest is not None and _left(tightest) >= available:
        tightest = None
    return Memory(
        total_bytes=total,
        available_bytes=available if tightest is None else _left(tightest),
        machine_available_bytes=available,
        group=tightest,
    )


def _of_machine(root: Path) -> tuple[int, int]:
    """Memory that there is and that is available. Linux says so in a file; psutil takes longer to import."""
    told: dict[str, int] = {}
    for line in read_text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB" and number.isdigit():
            told[name] = int(number) << 10
    if "MemTotal" in told and "MemAvailable" in told:
        return told["MemTotal"], told["MemAvailable"]
    import psutil

    machine = psutil.virtual_memory()
    return machine.total, machine.available


def own_bytes() -> int:
    """Memory that this process has now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def bytes_beside(files: Iterable[Path], *, root: Path = ROOT) -> int:
    """Memory that this process has now, without the parts of these files that it has mapped and read."""
    names = {str(file.resolve()) for file in files}
    num_bytes = 0
    is_mapped_file = False
    for line in read_text(root / "proc/self/smaps").splitlines():
        name, _, value = line.partition(":")
        if name == "Rss":
            num_bytes += 0 if is_mapped_file else int(value.split()[0]) * 1024
        elif " " in name:  # the head of a mapping: its range, rights, offset, device, inode and file
            is_mapped_file = line.split(maxsplit=5)[-1] in names
    # A system that does not tell of its mappings counts the files twice, which is the safe side.
    return num_bytes or own_bytes()


def peak_bytes() -> int:
    """The most memory that this process had, since it became this program."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    # Not asked first: Linux counts here what the process was that started it.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _size(words: str) -> int:
    """Bytes of a size such as 32768K."""
    number, unit = (words[:-1], words[-1:]) if words[-1:] in _UNITS else (words, "")
    return int(number) << _UNITS.get(unit, 0) if number.isdecimal() else 0


def _left(group: Group) -> int:
    return max(0, group.limit_bytes - group.used_bytes)


def _groups(root: Path) -> Iterator[Group]:
    """The groups of this process, and those that hold them, which set a limit on memory."""
    readers = {1: _group_of_version_1, 2: _group_of_version_2}
    for version, folder in group_folders(root, "memory"):
        found = readers[version](folder)
        if found is not None:
            yield found


def _group_of_version_2(folder: Path) -> Group | None:
    return _group(folder, limit="memory.max", used="memory.current", cached="inactive_file")


def _group_of_version_1(folder: Path) -> Group | None:
    names = {"limit": "memory.limit_in_bytes", "used": "memory.usage_in_bytes"}
    return _group(folder, **names, cached="total_inactive_file")


def _group(folder: Path, *, limit: str, used: str, cached: str) -> Group | None:
    most, taken = read_text(folder / limit), read_text(folder / used)
    if not most.isdecimal() or int(most) >= _UNLIMITED_BYTES or not taken.isdecimal():
        return None
    entries = dict(
        line.split(maxsplit=1) for line in read_text(folder / "memory.stat").splitlines() if " " in line
    )
    reclaimable = int(entries.get(cached, 0))
    return Group(
        limit_bytes=int(most), used_bytes=max(0, int(taken) - reclaimable), origin=str(folder / limit)
    )
