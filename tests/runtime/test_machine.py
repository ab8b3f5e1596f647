"""The speed of a machine's memory, on the pool that models run on."""

import pytest

from runtime import system
from runtime.machine import measure_speeds


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_machine_reads_its_memory(num_threads: int):
    speeds = measure_speeds(num_threads=num_threads, cache_bytes=system.cache_bytes())
    assert speeds.threads == num_threads
    assert speeds.threads_reason
    # No machine that runs this is outside of this.
    assert 1e7 < speeds.read_bytes_per_s < 1e13
