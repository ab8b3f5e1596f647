"""Learning: layers, the model, data, training and fine-tuning, in PyTorch."""

__distribution__ = "chimera-edge"
