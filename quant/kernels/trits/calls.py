"""The argument table of packing, made of arrays."""

import numpy as np

from quant.activations import num_blocks
from quant.kernels.elementary.calls import VectorCall
from quant.kernels.places import CODES, NUM_ARGUMENTS, NUM_BLOCKS, Y
from quant.layouts import laid_shape
from quant.packing import PackedTernary


def packing_call(packed: PackedTernary) -> VectorCall:
    """A matrix in tiles → its codes in 1.6 bits."""
    shape = laid_shape(packed.num_rows, packed.num_inputs, layout="trits")
    codes = np.empty(shape, dtype=np.uint8)
    table = np.zeros(NUM_ARGUMENTS, dtype=np.int64)
    table[CODES], table[Y] = packed.codes.ctypes.data, codes.ctypes.data
    table[NUM_BLOCKS] = num_blocks(packed.num_inputs)
    return VectorCall(table=table, outputs=(codes,), units=shape[0], held=(packed.codes,))
