"""A model's tensors in a graph: quantised products, the table of embedding and head, and floats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from configs.inventory import has_correction
from configs.schema.model import ModelConfig
from exports.onnx.codes import group_scales, row_bytes, table_rows, ternary_rows
from exports.onnx.graph import FLOAT, FLOAT16, UINT8, Graph
from quant.embedding import RowBits
from quant.packing import PackedRows
from quant.ternary import GROUP
from runtime.building.tensors import Tensors

Profile: TypeAlias = Literal["native", "reference"]
Floats: TypeAlias = NDArray[np.float32]
BLOCKS: dict[Profile, int] = {"native": 128, "reference": 64}
"""Inputs that share a scale of activations: what onnxruntime is fastest with, or what the engine has."""
INT8_ACTIVATIONS = 4
"""The `accuracy_level` at which activations become int8; the others are many times slower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The tensors of a model, and how products read them."""

    config: ModelConfig
    tensors: Tensors
    profile: Profile

    @property
    def block(self) -> int:
        return BLOCKS[self.profile]

    def floats(
        self, graph: Graph, name: str, *, made: Callable[[Floats], Floats] = np.ascontiguousarray
    ) -> str:
        """A float tensor, or what is made of it."""
        return graph.constant(made(self.tensors.floats(name)), stem=name)

    def dense(self, graph: Graph, x: str, *names: str) -> str:
        """Float products side by side."""
        joined = np.concatenate([self.tensors.floats(name) for name in names])
        return graph.op("MatMul", x, graph.constant(np.ascontiguousarray(joined.T), stem=names[0]))

    def ternary(self, graph: Graph, x: str, *names: str) -> str:
        """Products of matrices that read the same input, side by side, each with its correction."""
        matrices = [self.tensors.ternary(name) for name in names]
        num_rows, num_inputs = sum(matrix.num_rows for matrix in matrices), matrices[0].num_inputs
        blocks, groups = -(-num_inputs // self.block), -(-num_inputs // GROUP)
        codes = "+".join(names)

        def rows() -> Iterator[NDArray[np.uint8]]:
            for matrix in matrices:
                yield from ternary_rows(matrix, block=self.block)

        def scales_by_rows() -> Iterator[NDArray[np.float16]]:
            return map(group_scales, matrices)

        shape = num_rows, blocks, self.block // 4
        graph.stored(codes, graph.data.place(codes, UINT8, shape, rows))
        stored = f"{codes}.scales"
        graph.stored(stored, graph.data.place(stored, FLOAT16, (num_rows, groups), scales_by_rows))

        def spread(outer: Graph) -> str:
            scales = outer.cast(stored, FLOAT)
            if self.block == GROUP:
                return scales
            twice = outer.op(
                "Expand", outer.unsqueeze(scales, 2), outer.constant([1, 1, GROUP // self.block])
            )
            return outer.slice(outer.reshape(twice, num_rows, -1), 0, blocks, axis=1)

        y = self._product(graph, x, codes, graph.once(stored, spread), shape=(num_rows, num_inputs), bits=2)
        if not has_correction(self.config) or ".experts." in codes:
            return y
        return graph.op(
            "Add", y, graph.concat(*(self._correction(graph, x, name) for name in names), axis=-1)
        )

    def rows(self, graph: Graph, x: str, name: str) -> str:
        """The product of a table with one scale a row."""
        packed = self.tensors.rows(name)
        blocks = -(-packed.num_inputs // self.block)
        graph.stored(name, self._table(graph, name, packed))
        row_scales = self._row_scales(graph, name, packed)

        def spread(outer: Graph) -> str:
            return outer.op("Expand", outer.unsqueeze(row_scales, 1), outer.constant([1, blocks]))

        shape = packed.num_rows, packed.num_inputs
        return self._product(graph, x, name, graph.once(row_scales, spread), shape=shape, bits=packed.bits)

    def embedded(self, graph: Graph, ids: str) -> str:
        """Rows of the embedding: scale times code, rounded once."""
        name = "embedding.weight"
        packed = self.tensors.rows(name)
        self._table(graph, name, packed)
        width = row_bytes(packed.num_inputs, bits=packed.bits, block=self.block)
        by_rows = graph.data.view(f"{name}.rows", name, UINT8, (packed.num_rows, width))
        raw = graph.op("Gather", graph.stored(by_rows.name, by_rows), ids)
        codes = _signed(graph, raw, bits=packed.bits)
        if width * 8 // packed.bits > packed.num_inputs:
            codes = graph.slice(codes, 0, packed.num_inputs, axis=-1)
        scales = graph.op("Gather", self._row_scales(graph, name, packed), ids)
        return graph.op("Mul", codes, graph.unsqueeze(scales, -1))

    def _correction(self, graph: Graph, x: str, name: str) -> str:
        prefix = name.removesuffix("weight") + "correction."
        return self.rows(graph, self.rows(graph, x, prefix + "down"), prefix + "up")

    def _table(self, graph: Graph, name: str, packed: PackedRows) -> onnx.TensorProto:
        shape = packed.num_rows, -(-packed.num_inputs // self.block), self.block * packed.bits // 8
        return graph.data.place(name, UINT8, shape, lambda: table_rows(packed, block=self.block))

    def _row_scales(self, graph: Graph, name: str, packed: PackedRows) -> str:
        scales = packed.scales.reshape(-1)[: packed.num_rows]
        stored = graph.data.place(f"{name}.scales", FLOAT, scales.shape, lambda: (scales,))
        return graph.stored(stored.name, stored)

    def _product(
        self, graph: Graph, x: str, codes: str, scales: str, *, shape: tuple[int, int], bits: RowBits
    ) -> str:
        attributes = {
            "N": shape[0],
            "K": shape[1],
            "bits": bits,
            "block_size": self.block,
            "accuracy_level": INT8_ACTIVATIONS,
        }
        return graph.op(".MatMulNBits", x, codes, scales, attributes=attributes)


def _signed(graph: Graph, raw: str, *, bits: RowBits) -> str:
    """Codes out of bytes, as floats."""
    fields = 8 // bits
    if fields > 1:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        apart = graph.op(
            "BitShift", graph.unsqueeze(raw, -1), graph.constant(shifts), attributes={"direction": "RIGHT"}
        )
        kept = graph.op("BitwiseAnd", apart, graph.constant(np.array(2**bits - 1, dtype=np.uint8)))
        raw = graph.reshape(kept, 0, 0, -1)
    return graph.op("Sub", graph.cast(raw, FLOAT), graph.constant(float(2 ** (bits - 1))))
