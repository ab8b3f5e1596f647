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
NEWS = 9  # address of a gate that opens with each pass, where somebody wants to hear of it
PLACE = 10  # address of the number of the pass that began last
NUMBER = 11  # this one's
BEGUN = 12  # address of the clock at which this pass began last
STOP = 13  # address of what is not 0 when the program has to stop
DESK = 14  # address of where the address of the head of `reading_places` stands; 0 where nothing is read
IS_PATIENT = 15  # address of what is 0 where the program has to stop rather than wait
FIRST = 16  # the number of the layer's first expert, through all layers
DECISIONS = 17  # what the layer's decisions came to, as `reading_places` says
HEEDED = 18  # address of what is 0 where nobody wants to hear of passes

# `stand_in` reads these too, which are those of `quant.kernels.experts.places`; it works on tokens.
AWAY = 19  # int64, one an expert: 1 where the shared expert stands in for it
CHOSEN = 20
NUM_CHOSEN = 21
PAIR_PLACES = 22
ROWS = 23
ROWS_STRIDE = 24
SHARED = 25
SHARED_STRIDE = 26
WIDTH = 27
NUM_PLACES = 28
