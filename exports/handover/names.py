"""What things are called in a Hugging Face folder."""

from typing import Literal

Form = Literal["latent", "held"]
"""Weights that are quantised where they are used, or that were quantised once and for all."""

FORMS: tuple[Form, ...] = ("latent", "held")
ARCHITECTURE = "Chimera51ForCausalLM"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
GENERATION_NAME = "generation_config.json"
PREFIX = "model."
"""What stands before the house's own names of tensors."""
