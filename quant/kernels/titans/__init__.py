"""A Titans layer between its projections: the memory, the window of attention, and their state."""
