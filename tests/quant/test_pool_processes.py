"""Pools and processes: parked threads hinder no way of ending, and a forked child has threads of its own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BEGIN = """
import gc, multiprocessing, os, signal, sys, threading, time
import numpy as np
from quant.pool import Pool
from tests.quant.pool_workers import Products, chain, linger, meet, meeting
table = meeting(steps=5)
def job(pool, table=table):
    pool.run(table.ctypes.data)
    assert table[1] == 0, "a barrier leaked"
"""

POOLS = """
pools = [Pool(meet, num_threads=3), Pool(meet, num_threads=2)]
for pool in pools:
    job(pool)
"""


def start(program: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-W", "ignore:This process (pid:DeprecationWarning", "-c"]
    return subprocess.Popen(
        [*command, BEGIN + program], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How it ended and what it said. One that hangs is ended after a generous time, and fails the test."""
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"it hung: {out}{err}")
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("raise RuntimeError('on purpose')", 1, "RuntimeError: on purpose"),
        ("os._exit(9)", 9, ""),
        ("time.sleep(0.01); sys.exit(5)", 5, ""),
        ("del pools, pool; gc.collect(); sys.exit(3)", 3, ""),
        ("pools[0].close(); sys.exit(4)", 4, ""),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, ""),
    ],
)
def test_a_process_with_parked_threads_ends(ending: str, code: int, said: str) -> None:
    found, out, err = finish(start(POOLS + ending))
    assert (found, out) == (code, "")
    assert said in err
    assert bool(err) == bool(said)


def test_a_thread_that_outlives_the_main_one_may_still_do_jobs() -> None:
    program = POOLS + (
        "def later():\n"
        "    time.sleep(0.2)\n"
        "    for pool in pools:\n"
        "        job(pool)\n"
        "    print('done')\n"
        "threading.Thread(target=later).start()"
    )
    assert finish(start(program)) == (0, "done\n", "")


def test_the_end_waits_for_the_job_of_a_daemon() -> None:
    program = (
        "pool = Pool(linger, num_threads=2)\n"
        "lingering = np.array([300_000_000, 0], dtype=np.int64)\n"
        "threading.Thread(target=pool.run, args=(lingering.ctypes.data,), daemon=True).start()\n"
        "while lingering[1] == 0: time.sleep(0.001)\n"
        "sys.exit(6)"
    )
    assert finish(start(program)) == (6, "", "")


def test_an_interrupt_comes_after_the_job_and_the_pool_lives_on() -> None:
    program = (
        # A shell starts what it puts in the background with the signal ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "pool = Pool(linger, num_threads=2)\n"
        "lingering = np.array([500_000_000, 0], dtype=np.int64)\n"
        "def interrupt():\n"
        "    while lingering[1] == 0: time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "begin = time.monotonic()\n"
        "try:\n"
        "    for _ in range(60): pool.run(lingering.ctypes.data)\n"
        "except KeyboardInterrupt:\n"
        "    took = time.monotonic() - begin\n"
        "    lingering[:] = 0\n"
        "    pool.run(lingering.ctypes.data)\n"
        "    print('interrupted', lingering[1], took >= 0.5)\n"
        "    raise"
    )
    code, out, err = finish(start(program))
    assert (code, out) == (-signal.SIGINT, "interrupted 1 True\n")
    assert "KeyboardInterrupt" in err


def test_a_forked_child_and_its_parent_both_go_on() -> None:
    """The fork happens while another thread is in the middle of a job, of which the child knows nothing."""
    program = POOLS + (
        "products = Products(count=3, rows=96, inputs=128)\n"
        "chained, lone = Pool(chain, num_threads=3), Pool(linger, num_threads=2)\n"
        "chained.run(products.address)\n"
        "expected = products.results().tobytes()\n"
        "lingering = np.array([500_000_000, 0], dtype=np.int64)\n"
        "thread = threading.Thread(target=lone.run, args=(lingering.ctypes.data,))\n"
        "thread.start()\n"
        "while lingering[1] == 0: time.sleep(0.001)\n"
        "child = os.fork()\n"
        "products.poison()\n"
        "chained.run(products.address)\n"
        "assert products.results().tobytes() == expected\n"
        "for pool in pools:\n"
        "    job(pool)\n"
        "lingering[0] = 0\n"
        "if child == 0:\n"
        "    lone.run(lingering.ctypes.data)\n"
        "    assert len(threading.enumerate()) == 7\n"
        "    sys.exit(11)\n"
        "thread.join()\n"
        "lone.run(lingering.ctypes.data)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert finish(start(program)) == (0, "11\n", "")


def test_a_closed_pool_is_closed_in_the_child_too() -> None:
    program = POOLS + (
        "pool.close()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    from configs.errors import UsageError\n"
        "    try: job(pool)\n"
        "    except UsageError: os._exit(12)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert finish(start(program)) == (0, "12\n", "")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_of_multiprocessing_use_pools(method: str) -> None:
    program = (
        "\nif __name__ == '__main__':\n"
        "    from tests.quant.pool_child import use_a_pool, keep\n"
        "    keep(Pool(meet, num_threads=2))\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    children = [context.Process(target=use_a_pool) for _ in range(2)]\n"
        "    for child in children: child.start()\n"
        "    for child in children: child.join()\n"
        "    print([child.exitcode for child in children])"
    )
    assert finish(start(program)) == (0, "[8, 8]\n", "")
