"""What a config's packed file declares: its tensors in order, and the config with another embedding."""

import dataclasses

from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from quant.container_format import TensorSpec
from runtime.packed_inspection import expected_tensors


def packed_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """The tensors of a config's packed file, experts among them, in the order of the inventory."""
    return tuple(
        TensorSpec(name=name, kind=kind, shape=shape)
        for name, (kind, shape) in expected_tensors(config).items()
    )


def with_embedding_bits(config: ModelConfig, bits: EmbeddingBits | None) -> ModelConfig:
    """The config with another width of its embedding; None leaves it."""
    if bits is None:
        return config
    return dataclasses.replace(
        config, quantization=dataclasses.replace(config.quantization, embedding_bits=bits)
    )
