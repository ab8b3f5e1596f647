"""How many threads a process should use: cores that it may run on and has a quota for."""

import math
from dataclasses import dataclass
from pathlib import Path

from quant.control_groups import allowed_cpus, group_folders, read_text
from quant.parking import parkings


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadCount:
    """A number of threads and why it is this one, which `chimera doctor` prints."""

    count: int
    reason: str


def default_threads(*, root: Path = Path("/")) -> ThreadCount:
    """One thread for each physical core that this process can count on. `root` holds /sys and /proc."""
    if parkings() == ("none",):
        return ThreadCount(count=1, reason="this system lacks what threads need to wait for each other")
    cpus = allowed_cpus()
    cores = len({_siblings(root, cpu) for cpu in cpus})
    reason = f"{_counted(cores, 'core')} for this process"
    if cores < len(cpus):
        reason += f", which show as {len(cpus)} CPUs"
    quota = _quota(root)
    if quota < cores:
        allowed = max(1, math.floor(quota))
        return ThreadCount(count=allowed, reason=f"a quota of {quota:g} CPUs on {reason}")
    return ThreadCount(count=cores, reason=reason)


def _siblings(root: Path, cpu: int) -> str:
    """The CPUs of one core in words, equal for all of them; a CPU of which nothing is told is a core."""
    told = read_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return told or str(cpu)


def _quota(root: Path) -> float:
    """The least of the CPU quotas that control groups set on this process and on what holds it."""
    readers = {1: _quota_of_version_1, 2: _quota_of_version_2}
    folders = group_folders(root, "cpu")
    return min((readers[version](folder) for version, folder in folders), default=math.inf)


def _quota_of_version_2(folder: Path) -> float:
    match read_text(folder / "cpu.max").split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
        case _:
            return math.inf


def _quota_of_version_1(folder: Path) -> float:
    quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else math.inf


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
