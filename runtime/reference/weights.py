"""A model's tensors as the references take them: unpacked, each when it is first asked for."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.inventory import has_correction
from configs.schema.model import ModelConfig
from quant.activations import QuantizedActivations
from quant.embedding import RowWeights, rows_matmul
from quant.kernels.norm.reference import Quantized, quantize_blocks
from quant.kernels.residual.reference import add_rows
from quant.packing import unpack_rows, unpack_ternary
from quant.sherry_packing import PackedSherry, unpack_sherry
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
        """A ternary matrix times tokens, and its correction, if there is one."""
        if name not in self._unpacked:
            packed = self.tensors.ternary(name)
            is_sherry = isinstance(packed, PackedSherry)
            self._unpacked[name] = unpack_sherry(packed) if is_sherry else unpack_ternary(packed)
        tokens = activations(acts, width=width)
        y = ternary_matmul(self._unpacked[name], tokens)
        if not has_correction(self.config) or ".experts." in name:
            return y
        prefix = name.removesuffix("weight") + "correction."
        down, up = self.rows(prefix + "down"), self.rows(prefix + "up")
        hidden = activations(quantize_blocks(rows_matmul(down, tokens)), width=down.codes.shape[0])
        return add_rows(y, rows_matmul(up, hidden))


def activations(acts: Quantized, *, width: int) -> QuantizedActivations:
    """The form that products take."""
    codes, scales, neg_sums = acts
    return QuantizedActivations(codes=codes, scales=scales, neg_sums=neg_sums, num_inputs=width)
