"""The speed of a machine's memory, on the pool that models run on."""

import pytest

from quant.pool import Pool
from runtime.measuring.reading import CACHES_READ, LEAST_READ_BYTES, Reading, bytes_to_read
from runtime.worker import run_records


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_machine_reads_its_memory(num_threads: int):
    with Pool(run_records, num_threads=num_threads) as pool:
        reading = Reading(pool)
        for seconds in (0.0, 0.05):
            # No machine that runs this is outside of this.
            assert 1e7 < reading.speed(seconds=seconds).bytes_per_s < 1e13


def test_more_is_read_than_caches_hold():
    assert bytes_to_read(0) == LEAST_READ_BYTES
    assert bytes_to_read(2**25) == CACHES_READ * 2**25
