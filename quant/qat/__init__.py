"""Quantisation-aware training: the same numbers as `quant.ternary`, with gradients, in PyTorch."""
