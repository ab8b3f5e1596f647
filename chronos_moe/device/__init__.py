"""Experts larger than a GPU's memory: out of the store, over the bus, beside compute."""
