"""How many threads a process should use: cores that it may run on and has a quota for."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from quant.pool_system import parkings


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadCount:
    """A number of threads and why it is this one, which `chimera doctor` prints."""

    count: int
    reason: str


def default_threads(*, root: Path = Path("/")) -> ThreadCount:
    """One thread for each physical core that this process can count on. `root` holds /sys and /proc."""
    if parkings() == ("none",):
        return ThreadCount(count=1, reason="this system lacks what threads need to wait for each other")
    cpus = _allowed_cpus()
    cores = len({_siblings(root, cpu) for cpu in cpus})
    reason = f"{_counted(cores, 'core')} for this process"
    if cores < len(cpus):
        reason += f", which show as {len(cpus)} CPUs"
    quota = _quota(root)
    if quota < cores:
        allowed = max(1, math.floor(quota))
        return ThreadCount(count=allowed, reason=f"a quota of {quota:g} CPUs on {reason}")
    return ThreadCount(count=cores, reason=reason)


def _allowed_cpus() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _siblings(root: Path, cpu: int) -> str:
    """The CPUs of one core in words, equal for all of them; a CPU of which nothing is told is a core."""
    told = _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return told or str(cpu)


def _quota(root: Path) -> float:
    """The least of the CPU quotas that control groups set on this process and on what holds it."""
    quotas = [math.inf]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", maxsplit=2)
        if not controllers:
            base, read = root / "sys/fs/cgroup", _quota_of_version_2
        elif "cpu" in controllers.split(","):
            base, read = root / "sys/fs/cgroup/cpu", _quota_of_version_1
        else:
            continue
        # Inside a container the group's own path may not be visible, but its top is.
        inner = Path(group.lstrip("/"))
        quotas += [read(base / folder) for folder in (inner, *inner.parents)]
    return min(quotas)


def _quota_of_version_2(folder: Path) -> float:
    match _text(folder / "cpu.max").split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
        case _:
            return math.inf


def _quota_of_version_1(folder: Path) -> float:
    quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else math.inf


def _text(path: Path) -> str:
    """What a file holds, or nothing where the system does not tell."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
