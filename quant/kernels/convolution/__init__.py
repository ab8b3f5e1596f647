"""The short causal convolution of every channel by itself, with SiLU, and the last inputs as its state."""
