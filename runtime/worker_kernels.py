"""What the threads of an engine's pool run: one record of a program after another, all of them together."""

from quant.indirect import call_kernel
from quant.jit import helper, kernel
from quant.pool_barrier import barrier, excuse
from quant.registers import i64
from quant.simd import load
from quant.sync import atomic_load
from runtime.worker_places import (
    ARGUMENTS,
    COUNT,
    ENDS_GROUP,
    KERNEL,
    NUM_RECORDS,
    RECORD_PLACES,
    RECORDS,
    STOPS,
    UNITS,
    UNITS_PER_TOKEN,
)


@helper
def entry(address: int, place: int) -> int:
    return load(i64, address + place * 8)


@kernel
def run_records(job: int, thread: int, num_threads: int, block: int) -> None:
    """Records of one group need nothing of each other; all threads meet at the group's end.

    `COUNT` is the address of the number of tokens. A record without tokens is passed over, and so is the
    meeting of a group without any, by all threads alike, since the numbers were written before they last met.
    So it is with a stop: who asks for one does it before a meeting, and all look at it behind that alone. Who
    may stop may also wait for a disk.
    """
    record = entry(job, RECORDS)
    for _ in range(entry(job, NUM_RECORDS)):
        num_tokens = entry(entry(record, COUNT), 0)
        if num_tokens > 0:
            units = entry(record, UNITS) + entry(record, UNITS_PER_TOKEN) * num_tokens
            first, last = units * thread // num_threads, units * (thread + 1) // num_threads
            if first < last:
                call_kernel(entry(record, KERNEL), entry(record, ARGUMENTS), first, last)
        group = entry(record, ENDS_GROUP)
        if group != 0 and entry(group, 0) > 0:
            stops = entry(record, STOPS)
            if stops != 0 and num_threads > 1:
                excuse(block, thread)
            barrier(block, thread, num_threads)
            if stops != 0 and atomic_load(stops) != 0:
                return
        record += RECORD_PLACES * 8
