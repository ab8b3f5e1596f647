"""The memory that the threads of a pool share: the control block, place by place, and what is set in it.

Whoever gives out jobs knows these numbers, and nothing of the code that reads them.
"""

from quant.parking import Parking

LINE = 128  # bytes; cores fetch lines of 64 in pairs

# Places in the barrier's block, in bytes. What is written at different times lies on different lines.
GATE = 0
LATE = 8  # the number for which somebody waits long
LATE_SINCE = 16
PARKING = LINE
BARRIER_PATIENCE = PARKING + 8
REST_PATIENCE = PARKING + 24
STOLEN_NS = 2 * LINE
CROWDED = STOLEN_NS + 8  # not 0 when somebody else took a core that was offered during this job
THREADS = 3 * LINE  # a line for each thread: its own gate, and what it remembers
OWN_GATE, DISPLACED, CLAIMED = 0, 8, 16

PARKING_CODES: dict[Parking, int] = {"none": 0, "naps": 1, "futex": 2}
FUTEX = PARKING_CODES["futex"]

PATIENCE: dict[int, tuple[int, int]] = {
    BARRIER_PATIENCE: (50_000, 500_000),
    REST_PATIENCE: (30_000, 2_000_000),  # what lies between two tokens is bridged
}
"""Place in the block: how long to spin, and after how long in all to park, in ns."""

# The barrier's block is the beginning of the pool's, the control block.
MAX_THREADS = 256

JOB = THREADS + MAX_THREADS * LINE  # written before the gates of a job open, read after
STATE = JOB
TABLE = JOB + 8
ACTIVE = JOB + 16  # how many threads do the job; never more than NUM_THREADS
START_NS = JOB + 24
WORKER = JOB + 32  # address of the kernel
LEAVE = JOB + 40

BOOK = JOB + LINE  # the guarded caller's alone
NUM_THREADS = BOOK
USABLE = BOOK + 8  # how many threads the next job gets
WINDOW_NS = BOOK + 16  # time of jobs since the books were opened, and what of it was stolen
WINDOW_STOLEN_NS = BOOK + 24
PROBE_AT_NS = BOOK + 32  # when one more thread is tried again
HOLD_NS = BOOK + 40  # how long to do without, the next time
CALM = BOOK + 48  # windows without theft in a row

NUM_BYTES = BOOK + LINE

# STATE
UNSTARTED, IDLE, BUSY, CLOSED = 0, 1, 2, 3

SHORTEST_HOLD_NS, LONGEST_HOLD_NS = 50_000_000, 2_000_000_000
