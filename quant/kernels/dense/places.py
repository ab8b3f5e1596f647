"""Places in the argument table of a dense product. Strides are in bytes, from row to row."""

X = 0  # float32 tokens
X_STRIDE = 1
WEIGHT = 2  # float32 rows of the matrix, one an output
WEIGHT_STRIDE = 3
BIAS = 4  # float32, one an output; 0 where there is none
NUM_INPUTS = 5
NUM_ROWS = 6
NUM_TOKENS = 7
Y = 8  # float32 results, an output a column
Y_STRIDE = 9

NUM_PLACES = 10

ROWS = 4
"""Rows of the matrix to a unit of work; the last unit may have fewer."""
