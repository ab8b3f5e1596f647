"""The engine's own buffers: taken once, shared by all layers, as large as a slice of a prompt needs them."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.activations import BLOCK, num_blocks
from runtime.arena import aligned_zeros
from runtime.program import RowOfStream

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """float32 rows, one a token; their elements are followed by padding."""

    array: Floats
    width: int

    @property
    def address(self) -> int:
        return self.array.ctypes.data

    @property
    def stride(self) -> int:
        return self.array.strides[0]

    @property
    def of_stream(self) -> RowOfStream:
        """The first row of the stream that an operation works on."""
        return RowOfStream(self.address, self.stride)

    def row(self, number: int) -> "Rows":
        """One row alone."""
        return Rows(array=self.array[number : number + 1], width=self.width)

    def columns(self, first: int, width: int) -> "Rows":
        """Some columns of every row, from the first on; whole row pairs of products fit behind each other."""
        return Rows(array=self.array[:, first:], width=width)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Int8Rows:
    """Rows as products read them: codes, a scale and −Σ codes of each block of 64."""

    codes: NDArray[np.int8]
    scales: Floats
    neg_sums: NDArray[np.int32]
    width: int

    @property
    def stride(self) -> int:
        """Bytes from one row of codes to the next."""
        return self.codes.strides[0]

    @property
    def scales_stride(self) -> int:
        """The same for scales and sums."""
        return self.scales.strides[0]

    def row(self, number: int) -> "Int8Rows":
        """One row alone."""
        one = slice(number, number + 1)
        return Int8Rows(
            codes=self.codes[one], scales=self.scales[one], neg_sums=self.neg_sums[one], width=self.width
        )


class Workspace:
    """Buffers by name. Who asks for a name again gets the same memory."""

    def __init__(self, *, num_rows: int) -> None:
        self.num_rows = num_rows
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())

    def rows(self, name: str, width: int, *, num_rows: int | None = None) -> Rows:
        """float32 rows, padded to 64."""
        return Rows(
            array=self.array(name, (num_rows or self.num_rows, _padded(width)), np.float32), width=width
        )

    def int8(self, name: str, width: int, *, num_rows: int | None = None) -> Int8Rows:
        """Quantised rows."""
        count, blocks = num_rows or self.num_rows, num_blocks(width)
        return Int8Rows(
            codes=self.array(f"{name}.codes", (count, blocks * BLOCK), np.int8),
            scales=self.array(f"{name}.scales", (count, blocks), np.float32),
            neg_sums=self.array(f"{name}.neg_sums", (count, blocks), np.int32),
            width=width,
        )

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Any array; a name has one shape and type."""
        found = self._arrays.get(name)
        if found is None:
            num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            found = aligned_zeros(num_bytes).view(dtype).reshape(shape)
            self._arrays[name] = found
        assert (found.shape, found.dtype) == (shape, np.dtype(dtype)), f"{name} has one shape"
        return found


def _padded(width: int) -> int:
    return num_blocks(width) * BLOCK
