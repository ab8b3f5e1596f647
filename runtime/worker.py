"""What the threads of an engine's pool do: one record of a program after another, all of them together."""

from quant.indirect import call_kernel
from quant.jit import helper, kernel
from quant.pool_barrier import barrier
from quant.registers import i64
from quant.simd import load

# A job is where its records are and how many.
NUM_RECORDS, RECORDS, JOB_PLACES = 0, 1, 2

# A record is an operation: its units of work are so many, and so many more for each token.
KERNEL, ARGUMENTS, UNITS, UNITS_PER_TOKEN, COUNT, ENDS_GROUP, RECORD_PLACES = range(7)


@helper
def entry(address: int, place: int) -> int:
    return load(i64, address + place * 8)


@kernel
def run_records(job: int, thread: int, num_threads: int, block: int) -> None:
    """Records of one group need nothing of each other; all threads meet at the group's end.

    `COUNT` is the address of the number of tokens. A group without tokens is passed over, by all threads
    alike, since the number was written before they last met.
    """
    record = entry(job, RECORDS)
    for _ in range(entry(job, NUM_RECORDS)):
        num_tokens = entry(entry(record, COUNT), 0)
        if num_tokens > 0:
            units = entry(record, UNITS) + entry(record, UNITS_PER_TOKEN) * num_tokens
            first, last = units * thread // num_threads, units * (thread + 1) // num_threads
            if first < last:
                call_kernel(entry(record, KERNEL), entry(record, ARGUMENTS), first, last)
            if entry(record, ENDS_GROUP) != 0:
                barrier(block, thread, num_threads)
        record += RECORD_PLACES * 8
