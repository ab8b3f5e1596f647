"""Places in the argument tables of operations on integers. They have one unit of work."""

TARGET = 0  # address of the int64 that is written
SOURCE = 1  # address of an int64

NUM_PLACES = 2
