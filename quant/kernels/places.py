"""Places in the argument tables of operations on packed weights: `quant.kernels.arguments` says how they are
called. What an operation does not use may hold anything."""

CODES = 0  # tiles of weights, as `quant.packing` lays them out
SCALES = 1  # their scales, in tile order
NUM_BLOCKS = 2  # blocks of 64 inputs in a row
NUM_TOKENS = 3
Q = 4  # int8 codes of the tokens, padded to whole blocks
Q_STRIDE = 5  # bytes from one token to the next
D = 6  # float32 scale of each block of a token
STARTS = 7  # int32 −Σ codes of each block of a token
D_STRIDE = 8  # bytes from one token to the next, of both
Y = 9  # float32 results
Y_STRIDE = 10  # bytes from one token, or one row looked up, to the next
IDS = 11  # int64 numbers of rows

NUM_ARGUMENTS = 12
