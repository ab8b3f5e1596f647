"""Places in the argument table of the matrix LSTM's step. Strides are in bytes, from token to token."""

QUERIES = 0  # float32, as projected; a head's K numbers side by side
QUERY_STRIDE = 1
KEYS = 2
KEY_STRIDE = 3
VALUES = 4
VALUE_STRIDE = 5
INPUT_GATES = 6  # float32, one a head, before bias and activation
INPUT_STRIDE = 7
FORGET_GATES = 8
FORGET_STRIDE = 9
INPUT_BIASES = 10  # float32, one a head
FORGET_BIASES = 11
IS_EXPONENTIAL = 12  # 1: the input gate is e^i; 0: σ(i)
GAIN = 13  # float32 [heads · K] of the norm
EPSILON = 14  # a float32 by its bits
GATES = 15  # float32 output gates before their activation, as many as values; 0 where there are none
GATE_STRIDE = 16
MEMORY = 17  # float32 [heads, K, K], keys before values; written anew
NORMALISER = 18  # float32 [heads, K]; written anew
LOG_SCALE = 19  # float32 [heads], −∞ before a text; written anew
HEAD_SIZE = 20  # K, a multiple of 16
NUM_TOKENS = 21
Y = 22  # float32 results
Y_STRIDE = 23

NUM_PLACES = 24
