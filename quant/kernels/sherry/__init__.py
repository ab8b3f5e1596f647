"""Ternary weights with one zero in every four times int8 activations; the reference is `ternary_matmul`."""
