"""`model.onnx.data`: the large constants of a graph, each placed first and written in order afterwards.

So a graph is complete before a byte of weights is read, and writing holds one piece of one tensor.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

DATA_NAME = "model.onnx.data"
Pieces: TypeAlias = Callable[[], Iterable[NDArray[Any]]]

_ALIGNMENT, _PAGE = 64, 4096
_LARGE = 1 << 20
"""From so many bytes on a tensor begins a page, so that a runtime can map it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    offset: int
    length: int
    pieces: Pieces


@dataclass(kw_only=True, slots=True)
class DataFile:
    """What lies where."""

    num_bytes: int = 0
    _placed: dict[str, _Placed] = field(default_factory=dict[str, _Placed])

    def place(self, name: str, dtype: int, shape: Sequence[int], pieces: Pieces) -> onnx.TensorProto:
        """Room for a tensor, and how a graph refers to it. A name is placed once."""
        if name not in self._placed:
            length = prod(shape) * helper.tensor_dtype_to_np_dtype(dtype).itemsize
            unit = _PAGE if length >= _LARGE else _ALIGNMENT
            offset = -(-self.num_bytes // unit) * unit
            self._placed[name] = _Placed(offset=offset, length=length, pieces=pieces)
            self.num_bytes = offset + length
        return self.view(name, name, dtype, shape)

    def place_array(self, name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
        return self.place(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, lambda: (array,))

    def view(self, name: str, of: str, dtype: int, shape: Sequence[int]) -> onnx.TensorProto:
        """The bytes of a placed tensor under a name and with a shape of its own."""
        placed = self._placed[of]
        tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
        where = {"location": DATA_NAME, "offset": str(placed.offset), "length": str(placed.length)}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=value)
        return tensor

    def write(self, file: BinaryIO, *, progress: Callable[[int, int], None] | None = None) -> None:
        """All tensors, in the order of their places."""
        for name, placed in self._placed.items():
            file.write(bytes(placed.offset - file.tell()))
            for piece in placed.pieces():
                file.write(np.ascontiguousarray(piece).data)
                if progress is not None:
                    progress(file.tell(), self.num_bytes)
            written = file.tell() - placed.offset
            assert written == placed.length, f"{name}: {written} bytes written, {placed.length} placed"
