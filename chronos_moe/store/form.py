"""What the bytes of one expert are: its tensors, end to end, as kernels read them.

All experts of a model have one form, so an expert is one read of a fixed size, and where a tensor lies in it
is one number. A block begins and ends at multiples of `ALIGNMENT`, as reading past the page cache asks for.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.inventory import Tensor, packed_tensors
from configs.schema.model import ModelConfig
from quant.container_format import NUMPY_DTYPES, Kind, StoredPart, TensorSpec, stored_parts
from quant.packing import PackedTernary
from quant.sherry_packing import PackedSherry

ALIGNMENT = 4096
"""Bytes; disks and the system count in no larger units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertForm:
    """An expert's tensors by the last part of their names, such as `gate_proj.weight`."""

    tensors: tuple[TensorSpec, ...]
    num_bytes: int
    """Bytes of all tensors."""
    block_bytes: int
    """The same, up to a multiple of the alignment."""

    def parts(self) -> tuple[tuple[StoredPart, int], ...]:
        """What is stored, with where it begins in the block."""
        found: list[tuple[StoredPart, int]] = []
        begin = 0
        for spec in self.tensors:
            for part in stored_parts(spec):
                found.append((part, begin))
                begin += part.num_bytes
        return tuple(found)

    def array(self, block: NDArray[np.uint8], part: StoredPart, begin: int) -> NDArray[Any]:
        """A stored part in a block's memory."""
        flat = block[begin : begin + part.num_bytes].view(NUMPY_DTYPES[part.dtype])
        return flat.reshape(part.shape)

    def view(self, block: NDArray[np.uint8]) -> dict[str, PackedTernary | PackedSherry | NDArray[np.float32]]:
        """The tensors in a block's memory, as kernels take them."""
        arrays = {part.name: self.array(block, part, begin) for part, begin in self.parts()}
        found: dict[str, PackedTernary | PackedSherry | NDArray[np.float32]] = {}
        for spec in self.tensors:
            if spec.kind == "float32":
                found[spec.name] = arrays[f"{spec.name}.values"][: prod(spec.shape)].reshape(spec.shape)
                continue
            make = PackedSherry if spec.kind == "sherry" else PackedTernary
            found[spec.name] = make(
                codes=arrays[f"{spec.name}.codes"],
                scales=arrays[f"{spec.name}.scales"],
                num_rows=spec.shape[0],
                num_inputs=spec.shape[1],
            )
        return found


def expert_form(config: ModelConfig) -> ExpertForm:
    """The form of a config's experts."""
    kind: Kind = "sherry" if config.quantization.sherry_mode.enabled else "ternary"
    stacked = _stacked(config)
    first = next(tensor.layer for tensor in stacked)
    specs = tuple(
        TensorSpec(
            name=tensor.name.split(".experts.")[1],
            kind="float32" if tensor.storage == "float32" else kind,
            shape=tensor.shape[1:],
        )
        for tensor in stacked
        if tensor.layer == first
    )
    num_bytes = sum(part.num_bytes for spec in specs for part in stored_parts(spec))
    return ExpertForm(tensors=specs, num_bytes=num_bytes, block_bytes=-(-num_bytes // ALIGNMENT) * ALIGNMENT)


def expert_layers(config: ModelConfig) -> tuple[int, ...]:
    """The layers that have experts: their numbers in the model, by their rows in the store's tables."""
    return tuple(dict.fromkeys(tensor.layer for tensor in _stacked(config) if tensor.layer is not None))


def tensor_name(layer: int, expert: int, name: str) -> str:
    """The name of an expert's tensor in a model's file."""
    return f"layers.{layer}.ffn.experts.{expert}.{name}"


def joint_digest(digests: Iterable[tuple[int, int, str]]) -> str:
    """The name of all experts of a model: of the digest of each block, by layer and number."""
    words = [f"{layer}.{expert} {digest}\n" for layer, expert, digest in sorted(digests)]
    return hashlib.sha256("".join(words).encode()).hexdigest()


def _stacked(config: ModelConfig) -> list[Tensor]:
    return [tensor for tensor in packed_tensors(config) if tensor.experts]
