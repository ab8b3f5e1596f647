"""Weights in GGUF's blocks: ternary codes in 2 bits or in base 3, signed bytes, halves.

TQ2_0   256 weights, 66 bytes: twice 128 as four rows of 32, a byte of the four of a column, low bits
        first, each as weight + 1; a float16 scale
TQ1_0   256 weights, 54 bytes: five rows of 32, five rows of 16, four rows of 4; the weights + 1 of a column
        are the digits of a number of base 3, the first the highest, and the byte is that number over 3⁵,
        times 256, rounded up; a float16 scale
Q8_0    32 weights, 34 bytes: a float16 scale, signed bytes
"""

import numpy as np
from numpy.typing import NDArray

from exports.handover.gguf_file import TYPES, GgufType

BLOCK = TYPES["TQ2_0"].block
_BASE_3 = (81, 27, 9, 3, 1)
_PARTS = ((5, 32), (5, 16), (4, 4))
"""Rows and columns of the parts of a TQ1_0 block."""


def ternary_blocks(
    codes_OI: NDArray[np.int8], scales_OB: NDArray[np.float16], *, kind: GgufType
) -> NDArray[np.uint8]:
    """Blocks of a matrix whose rows are whole blocks, one scale for each: [rows, bytes of a row]."""
    num_rows, num_inputs = codes_OI.shape
    digits = (codes_OI + 1).astype(np.uint8).reshape(-1, BLOCK)
    packed = _two_bits(digits) if kind == "TQ2_0" else _base_3(digits)
    scales = np.ascontiguousarray(scales_OB, dtype="<f2").reshape(-1, 1).view(np.uint8)
    blocks = np.concatenate((packed, scales), axis=1)
    return blocks.reshape(num_rows, num_inputs // BLOCK * TYPES[kind].block_bytes)


def byte_blocks(codes_NI: NDArray[np.int8], scales_N: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Q8_0 blocks of rows with one scale each, which is rounded to float16."""
    num_rows, num_inputs = codes_NI.shape
    block = TYPES["Q8_0"].block
    per_row = num_inputs // block
    scales = np.repeat(scales_N.astype("<f2"), per_row).reshape(-1, 1).view(np.uint8)
    blocks = np.concatenate((scales, codes_NI.reshape(-1, block).view(np.uint8)), axis=1)
    return blocks.reshape(num_rows, per_row * TYPES["Q8_0"].block_bytes)


def _two_bits(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows = digits.reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(rows, axis=2).reshape(-1, 64)


def _base_3(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    parts: list[NDArray[np.uint8]] = []
    first = 0
    for rows, columns in _PARTS:
        part = digits[:, first : first + rows * columns].reshape(-1, rows, columns).astype(np.uint32)
        number = (part * np.array(_BASE_3[:rows], dtype=np.uint32)[:, None]).sum(axis=1)
        parts.append(((number * 256 + 242) // 243).astype(np.uint8))
        first += rows * columns
    return np.concatenate(parts, axis=1)
