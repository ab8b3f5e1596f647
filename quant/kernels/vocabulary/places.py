"""Places in the argument table of operations on a vocabulary's scores, and what is fixed about them."""

SCORES = 0  # float32
NUM_SCORES = 1
BEST = 2  # the highest score, a float32 by its bits
TEMPERATURE = 3  # a float32 by its bits
WEIGHTS = 4  # int64 results, one a score
SUMS = 5  # int64 results, one a chunk

NUM_PLACES = 6

CHUNK = 4096
"""Ids to a unit of work; the last may be short."""

WEIGHT_BITS = 38
"""The best score has the weight 2^38. The weights of 2^24 ids, the most there can be, sum to 2^62 at most."""
