"""Rows of 8, 4 or 2 bits with one scale each, times int8 activations; the reference is `quant.embedding`."""
