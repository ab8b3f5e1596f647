"""Places in the argument table of a pass of experts that may lie on disk.

An expert's *word* tells where it lies in memory: 0 it does not; an even number is the address of its bytes;
an odd one is that address plus one, and the expert is in use, so nobody may take it away.
"""

TABLES = 0  # the experts' blocks of tables, as in `quant.kernels.experts.places`
VISITED = 1  # int64, the visited experts
NUM_VISITED = 2  # address of their number
WORDS = 3  # int64, one an expert
PARTS = 4  # pairs of int64: a place in an expert's block, in bytes, and the part's offset in its bytes
NUM_PARTS = 5
CLOCK = 6  # address of the number of passes so far
LAST_VISITS = 7  # int64, one an expert: the clock of its last visit
VISITS = 8  # int64, one an expert: the passes that visited it
NEWS = 9  # address of a gate that opens with each pass
PLACE = 10  # address of the number of the pass that began last
NUMBER = 11  # this one's
BEGUN = 12  # address of the clock at which this pass began last
STOP = 13  # address of what is not 0 when the program has to stop

# `stand_in` reads these too, which are those of `quant.kernels.experts.places`; it works on tokens.
AWAY = 14  # int64, one an expert: 1 where the shared expert stands in for it
CHOSEN = 15
NUM_CHOSEN = 16
PAIR_PLACES = 17
ROWS = 18
ROWS_STRIDE = 19
SHARED = 20
SHARED_STRIDE = 21
WIDTH = 22
NUM_PLACES = 23
