"""Handing over: a trained model as `.b158`, ONNX, Hugging Face or GGUF files."""

__distribution__ = "chimera-edge"
