"""Ternary weights of 1.6 bits times int8 activations; the reference is `quant.ternary.ternary_matmul`."""
