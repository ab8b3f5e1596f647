"""Places in the argument tables of operations on experts. Strides are in bytes, from one row to the next.

A *pair* is a token and one of its experts; pair t · A + a is token t's a-th. Sorted by expert, stably, every
pair has a *place*, and an expert's pairs lie side by side.
"""

NUM_EXPERTS = 0
NUM_CHOSEN = 1
CHOSEN = 2  # int64 [tokens, chosen], the best first
WEIGHTS = 3  # float32 [tokens, chosen]

# `choose` writes CHOSEN and WEIGHTS.
LOGITS = 4  # float32 rows, one a token
LOGITS_STRIDE = 5
BIAS = 6  # float32, one an expert: on the choice, not on the weights
IS_SOFTMAX = 7  # scores of all experts sum to one; else each is a sigmoid
SCORES = 8  # work space, float32 [tokens, experts]
LOG_SCORES = 9  # the same

# `dispatch` reads CHOSEN and has one unit of work.
NUM_TOKENS = 10
PAIR_PLACES = 11  # int64 results [tokens, chosen]: the place of each pair
PAIR_TOKENS = 12  # int64 results [pairs]: the token at each place
TABLES = 13  # a block of tables for each expert, see below
VISITED = 14  # int64 results: the experts that have a token, rising
NUM_VISITED = 15  # address of their number
NUM_GATHERED = 16  # address of the number of rows to gather: all pairs, or none for one token
COUNTED = 17  # int64, one an expert: the tokens that visited it are added
BASES = 18  # addresses of rows, see below

# `gather` reads PAIR_TOKENS.
Q = 19  # int8 codes of tokens, padded to whole blocks
Q_STRIDE = 20
D = 21  # float32 scales
STARTS = 22  # int32 −Σ codes
D_STRIDE = 23
SORTED_Q = 24  # the same at the places of pairs, with the same strides
SORTED_D = 25
SORTED_STARTS = 26

# `weigh` reads WEIGHTS and PAIR_PLACES.
ROWS = 27  # float32 results of experts at the places of pairs
ROWS_STRIDE = 28
SHARED = 29  # float32 results of the shared expert, one row a token
SHARED_STRIDE = 30
WIDTH = 31
Y = 32
Y_STRIDE = 33

# `visit` and `visit_rows` read TABLES, VISITED and NUM_VISITED.
FUNCTION = 34  # address of a kernel
TABLE = 35  # which table of an expert's block it is given: GATE …

NUM_PLACES = 36

# A block of TABLES, in bytes: the argument tables of an expert's products, and where its pairs are.
GATE, UP, INNER, DOWN = 0, 12 * 8, 24 * 8, 43 * 8
BEGIN, COUNT, NEXT = 55 * 8, 56 * 8, 57 * 8
BLOCK_BYTES = 58 * 8

# The list of BASES: where the rows of place 0 are.
TOKEN_Q, TOKEN_D, TOKEN_STARTS = 0, 1, 2  # of the one token, if there is only one
PAIR_Q, PAIR_D, PAIR_STARTS = 3, 4, 5  # gathered
GATE_ROWS, UP_ROWS, INNER_ROWS = 6, 7, 8
INNER_Q, INNER_D, INNER_STARTS = 9, 10, 11
DOWN_ROWS = 12
NUM_BASES = 13
