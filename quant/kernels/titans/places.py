"""Places in the argument table of the Titans step. A stride is in bytes, from one token to the next."""

NUM_TOKENS = 0
HEAD_DIM = 1
NUM_SLOTS = 2
WINDOW = 3
MEMORY_CHUNK = 4
POSITION = 5  # address of the int64 position of the first token

# What the tokens bring, float32.
Q = 6  # [tokens, H·K] after the convolution and SiLU
K = 7
V = 8
X_STRIDE = 9  # of the three
ETA = 10  # [tokens, H] before the bias
THETA = 11
ALPHA = 12
GATE_STRIDE = 13  # of the three
SINES = 14  # [tokens, K/2] of `rotation_angles`
COSINES = 15
ANGLE_STRIDE = 16  # of both

# Parameters, as `parameters.py` lays them out.
ETA_BIAS = 17
THETA_BIAS = 18
ALPHA_BIAS = 19
ATTN_SCALE = 20
SLOT_KEYS = 21
SLOT_VALUES = 22
MEMORY_KEY_GAIN = 23
GATE_GAIN = 24
EPSILON = 25  # a float32 by its bits
ROOT = 26  # √K, a float32 by its bits

# The state, as `shapes.py` lays it out.
MEMORY = 27
MOMENTUM = 28
ANSWERS = 29
ANSWER_SCALES = 30
KEYS = 31
KEY_SCALES = 32
VALUES = 33
VALUE_SCALES = 34

SCORES = 35  # work space, float32 [H, scores]
SCORE_STRIDE = 36  # bytes from one head to the next

Y = 37  # [tokens, H·K] gated outputs
Y_STRIDE = 38
SURPRISE = 39  # [tokens, H] norms of the gradients before they are clipped
SURPRISE_STRIDE = 40

NUM_PLACES = 41
