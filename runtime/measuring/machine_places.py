"""Places in the argument table of reading memory, and how much of it is read at a time."""

ADDRESS, RESULTS, NUM_PLACES = 0, 1, 2

PIECE_BYTES = 64 * 1024
RESULT_BYTES = 256
