"""Places in the argument table of operations on rounds. Strides are in bytes, from one token to the next.

A round works on the tokens that are still in the loop, side by side: row i of its own buffers belongs to the
token `ACTIVE[i]` of the buffers that are kept over the rounds.
"""

HELD = 0  # float32 rows: what the last round left, one a token
HELD_STRIDE = 1
INPUT = 2  # float32 rows: what every round is fed, one a token
INPUT_STRIDE = 3
WIDTH = 4
ACTIVE = 5  # int64 numbers of the tokens in the loop, rising
MIXED = 6  # float32 rows: the residual stream of the round
MIXED_STRIDE = 7
DECAY = 8  # float32, one a channel
ROUND = 9  # number of this round, from 0
ADDEND = 10  # float32 rows that still have to be added to the residual stream
ADDEND_STRIDE = 11
THRESHOLDS = 12  # int64, one a token: a float32 by its bits, the least change for another round; 0 for none
STAYS = 13  # int64 results: 1 where a token takes another round
TAKEN = 14  # int64 results: the rounds that a token has taken

X = 0  # of products with one or two diagonals: float32 rows
X_STRIDE = 1
FIRST = 2  # float32, one a channel
SECOND = 3  # the same; 0 where there is none
Y = 6  # float32 results
Y_STRIDE = 7

NUM_TOKENS = 16  # address of the number of all tokens
WANTED = 17  # int64, one a token: the number of rounds that are asked for
COUNTS = 18  # int64 [rounds, numbers]: the number of tokens in each round, then that of each stream
NUM_COUNTS = 19  # numbers of a round
NUM_ROUNDS = 20  # rounds that there are counts for
TARGETS = 21  # lists of places that depend on the number of tokens of the round that begins
TOTALS = 22  # int64, one a round: the tokens that take it are added
NUM_STREAMS = 23
OWNERS = 24  # int64, one a token: its stream. Not read where there is one stream
SHARES = 25  # work space, int64 [streams]
FIRST_ROWS = 26  # the same

NUM_PLACES = 27
