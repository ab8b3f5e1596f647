"""Ternary codes by columns: the bytes of 2-bit tiles in another order, for kernels that look sums up.

The bytes of one column of a tile lie together, all 32 rows of a pair, so that one table serves them all:

    codes[pairs, inputs/16, 4, 32]   byte 2r+h of column c: what byte 4r+c of half h's tile is
"""

import numpy as np
from numpy.typing import NDArray

from quant.packing import PackedTernary


def pack_columns(packed: PackedTernary) -> NDArray[np.uint8]:
    """The codes of a matrix by columns."""
    pairs, tiles = packed.codes.shape[:2]
    by_row = packed.codes.reshape(pairs, tiles, 2, 16, 4)
    return np.ascontiguousarray(by_row.transpose(0, 1, 4, 3, 2)).reshape(pairs, tiles, 4, 32)


def unpack_columns(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The 2-bit tiles again."""
    pairs, tiles = codes.shape[:2]
    by_column = codes.reshape(pairs, tiles, 4, 16, 2)
    return np.ascontiguousarray(by_column.transpose(0, 1, 4, 3, 2)).reshape(pairs, tiles, 2, 64)
