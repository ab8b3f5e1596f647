"""exp, log, sigmoid, softplus, SiLU, tanh, sine and cosine in float32, with the same bits on every CPU."""
