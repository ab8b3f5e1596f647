"""Places in the argument table of operations on vectors, beside those of `quant.kernels.arguments`.

They use Q, Q_STRIDE, D, STARTS, D_STRIDE, Y and Y_STRIDE of that page, and these. A stride is in bytes, from
one token to the next; a stride of zero reads the same row for all.
"""

X = 0  # float32 inputs; the gate of SwiGLU; int64 steps of a rotation
X_STRIDE = 1
NUM_INPUTS = 2  # elements of a row, or of one head
GAIN = 11  # float32 gains
EPSILON = 12  # a float32 by its bits
UP = 13  # float32 second inputs of SwiGLU
UP_STRIDE = 14
NUM_HEADS = 15  # parts of a row that are normed on their own
GAIN_STRIDE = 16  # bytes from one head's gains to the next head's
COSINES = 17  # float32; the sines are Y, and both have its stride
POSITION = 18  # of the first token

NUM_PLACES = 19
