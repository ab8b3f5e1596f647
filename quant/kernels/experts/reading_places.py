"""Places in the memory by which experts are asked for and read: a head, rows of slots, records of experts.

Whoever asks for an expert is given a slot for it, whose row is written under the head's lock. A thread that
reads takes the most urgent row, reads into the slot, and tells compute where the expert is.
"""

from quant.pool_places import LINE

# The head, in bytes. What is written at different times lies on different lines.
LOCK = 0  # not 0 while somebody changes rows or records
ASKED = LINE  # a gate that opens with each read that is asked for
ENDED = 2 * LINE  # a gate that opens with each read that has ended
NUM_FAILED = ENDED + 8  # reads that have ended in vain
NUM_READING = 3 * LINE  # reads on their way
SINCE_NS = NUM_READING + 8  # since when there is one at least
BUSY_NS = NUM_READING + 16  # how long there was one at least, before that
SERIAL = 4 * LINE  # how often was something demanded
MISSES = SERIAL + 8  # visits that had to ask, or had asked before and went without
LATE_HITS = SERIAL + 16  # visits of what was on its way
READS = SERIAL + 24
WASTED = SERIAL + 32  # experts that were wished for, came, and left without a visit
DROPPED = SERIAL + 40  # wishes for which there was no slot
STALLS = SERIAL + 48  # waits inside compiled code
STALLED_NS = SERIAL + 56
COOLED_AT = SERIAL + 64  # the clock of the experts' heat
IS_CLOSED = 5 * LINE
BLOCK = IS_CLOSED + 8  # address of a pool's block, for how threads sleep here
NUM_SLOTS = IS_CLOSED + 16
SLOTS = IS_CLOSED + 24  # address of the first slot
BLOCK_BYTES = IS_CLOSED + 32
POLICY = IS_CLOSED + 40  # which expert leaves, see below
NUM_ALL = IS_CLOSED + 48  # experts of all layers
NUM_EXPERTS = IS_CLOSED + 56  # of one layer
RECORDS = IS_CLOSED + 64  # address of the records
WORDS = IS_CLOSED + 72  # int64, one an expert, as in `quant.kernels.experts.waiting_places`
LAST_VISITS = IS_CLOSED + 80  # the same
VISITS = IS_CLOSED + 88  # the same
CLOCK = IS_CLOSED + 96  # address of the number of passes so far
PLACE = IS_CLOSED + 104  # address of the number of the pass that began last
BEGUN = 6 * LINE  # int64, one a pass: the clock at which it began last
PASS_ROWS = BEGUN + 8  # int64, one a pass: its layer
NUM_PASSES = BEGUN + 16
STALL_SPANS = BEGUN + 24  # pairs of int64, the begin and end of the last waits in ns
ROWS = 7 * LINE

NUM_STALL_SPANS = 256

# A row, as int64.
STATE = 0
URGENCY = 1  # passes until it is needed; the least is read first
NUMBER = 2  # of the expert that is there or comes, through all layers
IS_WISH = 3  # 1 where nobody has demanded it since it was wished for
BEGIN_NS = 4
END_NS = 5
ROW_PLACES = 8

# STATE
EMPTY, AWAITED, BEGUN_TO_READ, THERE = range(4)

# A record, as int64.
HANDLE = 0  # of an open file; −1 where compiled code is not to read
OFFSET = 1
SLOT = 2  # one more than the slot to which it is on its way, 0 where it is not
DUE = 3  # no wish takes its slot before this clock
WANTED = 4  # the head's SERIAL when it was demanded last; it stays until something else is
LOADED = 5  # the clock at which it came into memory
DECIDED = 6  # not 0 from the decision for it to its visit
HEAT = 7  # float64: visits, older ones counting less
HEAT_VISITS = 8  # visits that its heat has counted
RECORD_PLACES = 9

# What a layer's decisions came to, as int64.
WISHED, VISITED, BOTH, IS_OPEN, FORETOLD_PLACES = range(5)

# POLICY
LRU, LFU, LEAST_STALE = range(3)
HALF_LIFE_TOKENS = 32
"""After so many tokens a visit counts half of its heat."""

NOW = -1
"""The urgency of what is waited for."""
NOTHING = -1
"""In place of a slot."""
