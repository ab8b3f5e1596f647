"""The default number of threads, on machines made of folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quant import pool_threads
from quant.pool import Pool
from quant.pool_threads import default_threads
from tests.quant.pool_workers import meet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def four_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which a process may use four CPUs, of which nothing more is told."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def siblings(root: Path, pairs: dict[int, str]) -> None:
    for cpu, text in pairs.items():
        write(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", text + "\n")


def test_every_allowed_cpu_counts_where_nothing_is_told(four_cpus: Path) -> None:
    found = default_threads(root=four_cpus)
    assert (found.count, found.reason) == (4, "4 cores for this process")


def test_siblings_count_once(four_cpus: Path) -> None:
    siblings(four_cpus, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    found = default_threads(root=four_cpus)
    assert (found.count, found.reason) == (2, "2 cores for this process, which show as 4 CPUs")


def test_a_sibling_that_is_not_allowed_does_not_matter(four_cpus: Path) -> None:
    siblings(four_cpus, {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7"})
    assert default_threads(root=four_cpus).count == 4


@pytest.mark.parametrize(
    ("limit", "count"), [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 4)]
)
def test_a_quota_of_the_group_or_of_one_around_it_counts(four_cpus: Path, limit: str, count: int) -> None:
    write(four_cpus / "proc/self/cgroup", "0::/a/b/c\n")
    write(four_cpus / "sys/fs/cgroup/a/b/c/cpu.max", "300000 100000\n" if count < 4 else "max 100000\n")
    write(four_cpus / "sys/fs/cgroup/a/cpu.max", limit + "\n")
    found = default_threads(root=four_cpus)
    assert found.count == count
    assert ("quota" in found.reason) == (count < 4)


def test_a_quota_is_told(four_cpus: Path) -> None:
    write(four_cpus / "proc/self/cgroup", "0::/\n")
    write(four_cpus / "sys/fs/cgroup/cpu.max", "150000 100000\n")
    assert default_threads(root=four_cpus).reason == "a quota of 1.5 CPUs on 4 cores for this process"


@pytest.mark.parametrize(("quota", "count"), [("250000", 2), ("-1", 4)])
def test_a_quota_of_the_first_version_counts(four_cpus: Path, quota: str, count: int) -> None:
    write(four_cpus / "proc/self/cgroup", "5:memory:/x\n3:cpu,cpuacct:/docker/x\n")
    write(four_cpus / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota + "\n")
    write(four_cpus / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert default_threads(root=four_cpus).count == count


def test_a_system_without_the_means_gets_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_threads, "parkings", lambda: ("none",))
    found = default_threads()
    assert found.count == 1
    assert "lacks" in found.reason


def test_a_pool_takes_the_default() -> None:
    with Pool(meet) as pool:
        expected = default_threads()
        assert (pool.num_threads, pool.reason) == (expected.count, expected.reason)


def test_the_means_are_found_before_anything_is_compiled() -> None:
    code = "from quant.pool_threads import default_threads; print(default_threads().reason)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == default_threads().reason
