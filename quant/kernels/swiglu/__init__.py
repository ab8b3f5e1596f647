"""SwiGLU, silu(gate) · up, as floats or in int8 form for the next product."""
