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

# Where experts lie on disk, these too, and `order` reads them alone; else HEEDED is 0.
HEEDED = 8  # address of what is 0 where nobody wants to hear of it
DESK = 9  # address of where the address of the head of `reading_places` stands
ROW = 10  # of the layer
DECISIONS = 11  # what the layer's decisions came to, as `reading_places` says
MISSING = 12  # address of how many experts were decided on that are neither in memory nor on their way

# `announce` reads HEEDED and these.
NEWS = 13  # address of a gate that opens for whoever waits for news
PLACE = 14  # address of the number of the pass that began last

NUM_PLACES = 15
