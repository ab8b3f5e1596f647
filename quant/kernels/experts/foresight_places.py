"""Places in the argument table of operations that leave word of experts that are not needed yet.

Foresight is float32 [steps, layers, experts]: the larger, the surer. A part of it is some of its columns.
"""

X = 0  # float32 rows of scores, one a token
X_STRIDE = 1
NUM_TOKENS = 2
NUM_NOW = 3  # columns that speak of the tokens themselves; the others speak of tokens to come
Y = 4  # where foresight is left

# `certain` reads these and Y, the part of one layer at its first step.
CHOSEN = 5  # int64 [tokens, chosen]
NUM_CHOSEN = 6
NUM_EXPERTS = 7

# `announce` reads these alone.
NEWS = 8  # address of a gate that opens for whoever waits for news
PLACE = 9  # address of the number of the pass that began last, where a new call begins; else 0

NUM_PLACES = 10
