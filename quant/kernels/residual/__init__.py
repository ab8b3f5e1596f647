"""The residual stream: what a layer adds to it, and its norm, as floats and in int8 form."""
