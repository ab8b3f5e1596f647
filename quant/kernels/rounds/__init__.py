"""The loop over layers: what enters a round, what leaves it, and which tokens take another one."""
