"""Ternary weights times int8 activations; the reference is `quant.ternary.ternary_matmul`."""
