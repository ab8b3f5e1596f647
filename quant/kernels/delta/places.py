"""Places in the argument table of the delta rule's step. Strides are in bytes, from token to token."""

QUERIES = 0  # float32, behind convolution and SiLU; a head's K numbers side by side
QUERY_STRIDE = 1
KEYS = 2
KEY_STRIDE = 3
VALUES = 4
VALUE_STRIDE = 5
ALPHAS = 6  # float32, one a head, before the activation
ALPHA_STRIDE = 7
BETAS = 8
BETA_STRIDE = 9
RATES = 10  # float32 e^A_log, one a head
BIASES = 11  # float32 dt_bias, one a head
GAIN = 12  # float32 [K] of the norm, for all heads
EPSILON = 13  # a float32 by its bits
GATES = 14  # float32 output gates before their activation, as many as values; 0 where there are none
GATE_STRIDE = 15
MEMORY = 16  # float32 [heads, K, K], keys before values; written anew
HEAD_SIZE = 17  # K, a multiple of 16
NUM_TOKENS = 18
Y = 19  # float32 results
Y_STRIDE = 20

NUM_PLACES = 21

LARGEST_HEAD = 256
