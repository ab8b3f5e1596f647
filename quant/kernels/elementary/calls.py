"""Argument tables of operations on vectors, made of arrays whose shapes and types are checked before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.elementary.places import COSINES, NUM_INPUTS, NUM_PLACES, POSITION, X_STRIDE, X
from quant.kernels.operation import Arrays, Kernel
from quant.kernels.places import Y_STRIDE, Y

LANES = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VectorCall:
    """The arguments of an operation on vectors; it keeps the arrays alive whose addresses it holds."""

    table: NDArray[np.int64]
    outputs: Arrays
    """The results, padding included; every element is written."""
    units: int
    """What the kernel's `first` and `last` count."""
    held: tuple[NDArray[Any], ...]

    def run(self, kernel: Kernel, first: int, last: int) -> None:
        """Do a part of the work; all of it is 0 … units."""
        if not 0 <= first <= last <= self.units:
            raise UsageError(f"the work is 0 … {self.units}, got the part {first} … {last}")
        kernel(self.table.ctypes.data, first, last)


def elementwise_call(x: NDArray[np.float32]) -> VectorCall:
    """One of the functions of a float32 number, for each element; y has the shape of x."""
    check_array(x, shape=x.shape, dtype=np.float32, what="the numbers")
    table, y = np.zeros(NUM_PLACES, dtype=np.int64), np.empty_like(x)
    table[X], table[Y], table[NUM_INPUTS] = x.ctypes.data, y.ctypes.data, x.size
    return VectorCall(table=table, outputs=(y,), units=-(-x.size // LANES), held=(x,))


def rotation_call(steps: NDArray[np.int64], *, first_position: int, num_tokens: int) -> VectorCall:
    """Sines and cosines [tokens, steps] of position × step; the angles are in turns of 2^64 units."""
    check_array(steps, shape=(steps.size,), dtype=np.int64, what="the steps")
    if not 0 <= first_position < 2**63 - num_tokens:
        raise UsageError(f"a position must be at least 0 and below 2^63, got {first_position}")
    table = np.zeros(NUM_PLACES, dtype=np.int64)
    sines, cosines = (np.empty((num_tokens, steps.size), dtype=np.float32) for _ in range(2))
    table[X], table[NUM_INPUTS], table[POSITION] = steps.ctypes.data, steps.size, first_position
    table[Y], table[COSINES], table[Y_STRIDE] = sines.ctypes.data, cosines.ctypes.data, sines.strides[0]
    return VectorCall(table=table, outputs=(sines, cosines), units=num_tokens, held=(steps,))


def check_array(array: NDArray[Any], *, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", not contiguous"
        raise UsageError(
            f"{what} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}{order}",
            hint="numpy.ascontiguousarray and .astype give such an array.",
        )


def set_rows(
    table: NDArray[np.int64],
    rows: NDArray[np.float32],
    *,
    shape: tuple[int, ...],
    address: int = X,
    stride: int = X_STRIDE,
    what: str,
) -> None:
    """Name a matrix of tokens in a table. Rows may lie apart in memory, the elements of one may not."""
    together = rows.ndim == 2 and (rows.strides[1] == 4 or rows.shape[1] == 1)
    if rows.dtype != np.float32 or rows.shape != shape or len(shape) != 2 or 0 in shape or not together:
        order = "" if together else ", elements of a row not side by side"
        raise UsageError(
            f"{what} must be float32 {shape} with at least one entry, got {rows.dtype} {rows.shape}{order}",
            hint="A row is a token; rows may lie apart in memory.",
        )
    table[address], table[stride] = rows.ctypes.data, rows.strides[0]
