"""The pool: threads meet, results do not depend on their number, and one job is done at a time."""

import os
import resource
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from configs.errors import UsageError
from quant.cpu import Form
from quant.kernels.table import OPERATIONS
from quant.parking import Parking, parkings
from quant.pool import Pool
from quant.pool_places import DISPLACED, STATE, THREADS, UNSTARTED
from tests.quant.pool_workers import ACTIVE, STEPS, WRONG, Products, chain, lag, linger, meet, meeting


def wait_for(condition: Callable[[], bool]) -> None:
    """A generous limit: it ends a test that would hang, and judges nothing."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.001)


@pytest.mark.parametrize("parking", parkings())
@pytest.mark.parametrize("num_threads", [1, 2, 3, 4])
def test_nobody_passes_a_barrier_before_all_are_there(num_threads: int, parking: Parking) -> None:
    table = meeting(steps=50)
    with Pool(meet, num_threads=num_threads, parking=parking) as pool:
        for _ in range(20):
            pool.run(table.ctypes.data)
    assert table[WRONG] == 0
    assert 1 <= table[ACTIVE] <= num_threads


def test_all_threads_take_part() -> None:
    table = meeting(steps=1)
    with Pool(meet, num_threads=4) as pool:
        pool.run(table.ctypes.data)
    assert table[ACTIVE] == 4
    assert [table[16 + 16 * thread] for thread in range(5)] == [1, 1, 1, 1, 0]


def test_many_short_jobs() -> None:
    table = meeting(steps=1)
    with Pool(meet, num_threads=2) as two, Pool(meet, num_threads=3) as three:
        for turn in range(3000):
            (two if turn % 3 else three).run(table.ctypes.data)
    assert table[WRONG] == 0


@pytest.mark.parametrize("parking", parkings())
def test_jobs_wake_threads_that_sleep(parking: Parking) -> None:
    table = meeting(steps=2)
    with Pool(meet, num_threads=3, parking=parking) as pool:
        for _ in range(20):
            pool.run(table.ctypes.data)
            time.sleep(0.006)
    assert table[WRONG] == 0


@pytest.mark.parametrize("parking", parkings())
def test_a_barrier_wakes_threads_that_sleep(parking: Parking) -> None:
    """Thread 1 is so late that the others have parked; the last steps need one meeting each."""
    table = np.array([3_000_000, 10], dtype=np.int64)
    with Pool(lag, num_threads=4, parking=parking) as pool:
        before = time.process_time()
        pool.run(table.ctypes.data)
        # 30 ms of work, and three threads that wait so long: awake they would need 120 ms.
        assert time.process_time() - before < 0.09


@pytest.mark.parametrize("tokens", [1, 21])
@pytest.mark.parametrize("form", OPERATIONS["ternary_matmul"].forms)
def test_results_do_not_depend_on_the_number_of_threads(form: Form, tokens: int) -> None:
    kernel = OPERATIONS["ternary_matmul"].forms[form]
    products = Products(count=5, rows=97 * 3, inputs=600, tokens=tokens, kernel=kernel)
    for num_threads in (1, 2, 3, 4):
        with Pool(chain, num_threads=num_threads) as pool:
            for _ in range(5):
                products.poison()
                pool.run(products.address)
                assert products.results().tobytes() == products.expected.tobytes()


def test_an_idle_pool_uses_no_core() -> None:
    table = meeting(steps=10)
    with Pool(meet, num_threads=4) as pool:
        pool.run(table.ctypes.data)
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.2


def test_a_second_job_at_the_same_time_is_refused() -> None:
    table = np.array([300_000_000, 0], dtype=np.int64)
    with Pool(linger, num_threads=2) as pool:
        first = threading.Thread(target=pool.run, args=(table.ctypes.data,))
        first.start()
        wait_for(lambda: table[1] == 1)
        with pytest.raises(UsageError, match="another job already"):
            pool.run(table.ctypes.data)
        first.join()
        table[0] = 0
        pool.run(table.ctypes.data)


def test_closing_waits_for_the_job() -> None:
    table = np.array([200_000_000, 0], dtype=np.int64)
    pool = Pool(linger, num_threads=2)
    first = threading.Thread(target=pool.run, args=(table.ctypes.data,))
    first.start()
    wait_for(lambda: table[1] == 1)
    pool.close()
    with pytest.raises(UsageError, match="closed"):
        pool.run(table.ctypes.data)
    first.join()


def test_a_closed_pool_has_no_threads_and_does_nothing() -> None:
    names = {thread.ident for thread in threading.enumerate()}
    table = meeting(steps=1)
    pool = Pool(meet, num_threads=3)
    pool.run(table.ctypes.data)
    assert len({thread.ident for thread in threading.enumerate()} - names) == 2
    pool.close()
    pool.close()
    assert {thread.ident for thread in threading.enumerate()} <= names
    with pytest.raises(UsageError, match="closed"):
        pool.run(table.ctypes.data)


def test_an_unused_pool_starts_no_thread() -> None:
    names = {thread.ident for thread in threading.enumerate()}
    with Pool(meet, num_threads=3):
        assert {thread.ident for thread in threading.enumerate()} == names


def test_the_threads_of_a_forgotten_pool_leave() -> None:
    names = {thread.ident for thread in threading.enumerate()}
    table = meeting(steps=1)
    for _ in range(3):
        Pool(meet, num_threads=3).run(table.ctypes.data)
    wait_for(lambda: {thread.ident for thread in threading.enumerate()} <= names)


def test_a_start_that_was_interrupted_and_made_again_gives_no_thread_twice() -> None:
    names = {thread.ident for thread in threading.enumerate()}
    table = meeting(steps=20)
    with Pool(meet, num_threads=3) as pool:
        crew = pool._crew
        crew.start()
        crew._write(STATE, UNSTARTED)
        crew.start()
        for _ in range(50):
            pool.run(table.ctypes.data)
        wait_for(lambda: len({thread.ident for thread in threading.enumerate()} - names) == 2)
    assert table[WRONG] == 0
    assert {thread.ident for thread in threading.enumerate()} <= names


def test_an_error_of_the_caller_leaves_the_pool_usable() -> None:
    table = meeting(steps=1)
    with Pool(meet, num_threads=2) as pool:
        with pytest.raises(TypeError):
            pool.run()  # pyright: ignore[reportCallIssue]
        pool.run(table.ctypes.data)
    assert table[WRONG] == 0


@pytest.mark.parametrize("num_threads", [0, -1, 257])
def test_a_strange_number_of_threads_is_refused(num_threads: int) -> None:
    with pytest.raises(UsageError, match="1 to 256 are allowed"):
        Pool(meet, num_threads=num_threads)


def test_only_what_pushes_the_caller_off_its_core_in_a_job_is_theft() -> None:
    table = meeting(steps=1)
    remembered = (THREADS + DISPLACED) // 8
    with Pool(meet, num_threads=2) as pool:
        pool.run(table.ctypes.data)
        block = pool._crew._block
        block[remembered] = -7  # as it was when another thread called, or before what happened between jobs
        end = time.monotonic() + 60
        before = after = 0
        # A job that gets one thread, since another process has the other core, looks at nothing.
        while block[remembered] == -7 and time.monotonic() < end:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
            pool.run(table.ctypes.data)
            after = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        assert before <= block[remembered] <= after


def test_fewer_threads_work_while_a_core_is_taken() -> None:
    """Two threads on one core hinder each other as another process would."""
    table = meeting(steps=20)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with Pool(meet, num_threads=2) as pool:
            seen = [2]
            end = time.monotonic() + 60
            while seen[-1] != 1 and time.monotonic() < end:
                pool.run(table.ctypes.data)
                seen.append(pool.usable_threads)
            assert seen[-1] == 1
            # After a while two are tried again.
            while seen[-1] != 2 and time.monotonic() < end:
                pool.run(table.ctypes.data)
                seen.append(pool.usable_threads)
            assert seen[-1] == 2
    finally:
        os.sched_setaffinity(0, allowed)
    assert all(abs(before - after) <= 1 for before, after in pairwise(seen))
    assert table[WRONG] == 0
    assert table[STEPS] == 20
