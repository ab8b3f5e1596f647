"""What a child of multiprocessing does with pools."""

import sys

from quant.pool import Pool
from tests.quant.pool_workers import WRONG, meet, meeting

_kept: list[Pool] = []


def keep(pool: Pool) -> None:
    """Use a pool and hold it, so that a forked child has it too."""
    table = meeting(steps=3)
    pool.run(table.ctypes.data)
    _kept.append(pool)


def use_a_pool() -> None:
    table = meeting(steps=3)
    pools = [*_kept, Pool(meet, num_threads=3)]
    for pool in pools:
        pool.run(table.ctypes.data)
    assert table[WRONG] == 0
    sys.exit(8)
