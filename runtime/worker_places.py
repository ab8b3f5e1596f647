"""Jobs and records: what a program lays out for the threads of an engine's pool."""

# A job is where its records are and how many.
NUM_RECORDS, RECORDS, JOB_PLACES = 0, 1, 2

# A record is an operation: its units of work are so many, and so many more for each token. The last one of a
# group holds the address of the group's number of tokens, the others 0; and, where an operation of the group
# may stop the program, the address of a number that is not 0 then.
KERNEL, ARGUMENTS, UNITS, UNITS_PER_TOKEN, COUNT, ENDS_GROUP, STOPS, RECORD_PLACES = range(8)
