"""What is told of a machine, on machines made of folders."""

import mmap
import os
from pathlib import Path

import psutil
import pytest

from runtime import system


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_where_nothing_is_told_there_is_what_the_system_has(tmp_path: Path):
    found = system.memory(root=tmp_path)
    assert (found.group, found.available_bytes) == (None, found.machine_available_bytes)
    assert found.total_bytes == psutil.virtual_memory().total
    assert system.cache_bytes(root=tmp_path) == 0
    assert system.cpu_name(root=tmp_path)


def test_the_group_that_leaves_least_counts(tmp_path: Path):
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    for folder, limit, used in (("a/b", "9000000", "1000000"), ("a", "5000000", "4000000"), ("", "max", "1")):
        write(tmp_path / "sys/fs/cgroup" / folder / "memory.max", limit + "\n")
        write(tmp_path / "sys/fs/cgroup" / folder / "memory.current", used + "\n")
    write(tmp_path / "sys/fs/cgroup/a/memory.stat", "anon 7\ninactive_file 1500000\n")
    found = system.memory(root=tmp_path)
    assert found.available_bytes == 5_000_000 - (4_000_000 - 1_500_000)
    assert found.group is not None
    assert found.group.origin == str(tmp_path / "sys/fs/cgroup/a/memory.max")
    assert found.group.origin in found.reason


@pytest.mark.parametrize(("limit", "left"), [("3000000", 2_000_000), (str(2**63 - 4096), None)])
def test_a_limit_of_the_first_version(tmp_path: Path, limit: str, left: int | None):
    write(tmp_path / "proc/self/cgroup", "7:cpu:/x\n5:memory:/x\n")
    write(tmp_path / "sys/fs/cgroup/memory/x/memory.limit_in_bytes", limit + "\n")
    write(tmp_path / "sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1000000\n")
    found = system.memory(root=tmp_path)
    assert (None if found.group is None else found.available_bytes) == left


def test_a_cache_that_cpus_share_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3")):
        for index, (level, size) in enumerate((("1", "32K"), ("3", "8M"))):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            write(folder / "level", level)
            write(folder / "size", size)
            write(folder / "shared_cpu_list", shared)
    assert system.cache_bytes(root=tmp_path) == 16 * 2**20


SMAPS = """\
7f0000000000-7f0000100000 r--s 00000000 fe:00 54 {folder}/a model.b158
Size:               1024 kB
Rss:                 300 kB
7f0000100000-7f0000200000 r-xp 00000000 fe:00 55 /usr/lib/libc.so.6
Rss:                  40 kB
VmFlags: rd ex mr mw me
7ffd00000000-7ffd00100000 rw-p 00000000 00:00 0
Rss:                   2 kB
"""


def test_memory_beside_files_that_are_mapped(tmp_path: Path):
    file = tmp_path / "a model.b158"
    file.write_bytes(bytes(8 * 2**20))
    write(tmp_path / "root/proc/self/smaps", SMAPS.format(folder=tmp_path))
    assert system.bytes_beside([file], root=tmp_path / "root") == 42 * 1024
    assert system.bytes_beside([], root=tmp_path / "root") == 342 * 1024
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert not any(view[::4096])
        assert system.bytes_beside([]) - system.bytes_beside([file]) > 6 * 2**20
    # Where nothing is told of mappings, all that the process has counts.
    assert system.bytes_beside([file], root=tmp_path) > 2**20
