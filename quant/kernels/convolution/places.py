"""Places in the argument table of the short convolution. Strides are in bytes, from row to row."""

X = 0  # float32 tokens
X_STRIDE = 1
WEIGHT = 2  # float32 [taps, channels], the tap of the token itself last; rows without gaps
TAIL = 3  # float32 [taps - 1, channels], the inputs before the first token, the oldest first; written anew
NUM_CHANNELS = 4
NUM_TAPS = 5
NUM_TOKENS = 6
Y = 7  # float32 results; may not lie in the place of the tokens
Y_STRIDE = 8

NUM_PLACES = 9

LARGEST_TAPS = 16
