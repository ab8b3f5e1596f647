"""What Linux says in files of a process: the CPUs that it may use, and the control groups that hold it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

GroupVersion: TypeAlias = Literal[1, 2]


def group_folders(root: Path, controller: str) -> Iterator[tuple[GroupVersion, Path]]:
    """The folders of this process's groups and of those that hold them; `root` holds /proc and /sys.

    Every folder comes with the version of its files. Inside a container the group's own path may not be
    visible, but its top is.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", maxsplit=2)
        version: GroupVersion
        if not controllers:
            base, version = root / "sys/fs/cgroup", 2
        elif controller in controllers.split(","):
            base, version = root / "sys/fs/cgroup" / controller, 1
        else:
            continue
        inner = Path(group.lstrip("/"))
        for folder in dict.fromkeys((inner, *inner.parents)):
            yield version, base / folder


def allowed_cpus() -> frozenset[int]:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def read_text(path: Path) -> str:
    """What a file holds, or nothing where the system does not tell."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
