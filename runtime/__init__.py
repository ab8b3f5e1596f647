"""Running: engine, state, sampler, server and the command line, without PyTorch."""

__distribution__ = "chimera-edge"
