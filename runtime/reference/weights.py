"""A model's tensors as the references take them: unpacked, each when it is first asked for."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.schema.model import ModelConfig
from quant.activations import QuantizedActivations
from quant.embedding import RowWeights
from quant.kernels.norm.reference import Quantized
from quant.packing import unpack_rows, unpack_ternary
from quant.ternary import TernaryWeights, ternary_matmul
from runtime.building.tensors import Tensors

Floats: TypeAlias = NDArray[np.float32]


class ReferenceWeights:
    """Tensors by name."""

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        self.config, self.tensors = config, tensors
        self._unpacked: dict[str, TernaryWeights] = {}

    @property
    def eps(self) -> np.float32:
        return np.float32(self.config.rms_norm_eps)

    def floats(self, name: str) -> Floats:
        return self.tensors.floats(name)

    def rows(self, name: str) -> RowWeights:
        return unpack_rows(self.tensors.rows(name))

    def product(self, name: str, acts: Quantized, *, width: int) -> Floats:
        """A ternary matrix times tokens."""
        if name not in self._unpacked:
            self._unpacked[name] = unpack_ternary(self.tensors.ternary(name))
        return ternary_matmul(self._unpacked[name], activations(acts, width=width))


def activations(acts: Quantized, *, width: int) -> QuantizedActivations:
    """The form that products take."""
    codes, scales, neg_sums = acts
    return QuantizedActivations(codes=codes, scales=scales, neg_sums=neg_sums, num_inputs=width)
