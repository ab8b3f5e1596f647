"""Titans, memory as context: a small network that learns while it reads, beside a window of attention."""
