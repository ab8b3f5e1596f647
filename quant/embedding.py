"""Embedding and head: one table of quantised rows, with 8, 4 or 2 bits a weight and one scale per row.

With 8 and 4 bits a row's scale is its largest magnitude over 127 or 7, by the same four operations as an
activation block's. With 2 bits a row is one ternary group, its float16 scale kept as float32.

The head's product for row o, blocks b of 64 inputs in order, from a sum of 0, every float32 operation rounded
separately:

    y = s[o] * (Σ_b d[b] * float(Σ code * q))
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.activations import (
    SMALLEST_MAXIMUM,
    QuantizedActivations,
    block_sums,
    checked_float_matrix,
    num_blocks,
)
from quant.ternary import checked_inputs, quantize_ternary

RowBits: TypeAlias = Literal[8, 4, 2]

MAX_CODES: dict[RowBits, int] = {8: 127, 4: 7, 2: 1}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowWeights:
    """Quantised rows: codes from −max to max, where max is 127, 7 or 1, and one scale per row."""

    codes: NDArray[np.int8]  # [rows, inputs]
    scales: NDArray[np.float32]  # [rows]
    bits: RowBits


def quantize_rows(weight_ND: NDArray[np.float32], *, bits: RowBits = 8) -> RowWeights:
    """Codes and scales of a float32 table. A row sees no other, so a large table may come in pieces."""
    if bits not in MAX_CODES:
        raise UsageError(f"{bits!r} bits a weight are unknown; allowed are 8, 4 and 2")
    if bits == 2:
        ternary = quantize_ternary(weight_ND, group_size="row")
        return RowWeights(codes=ternary.codes, scales=ternary.scales[:, 0].astype(np.float32), bits=bits)
    checked_float_matrix(weight_ND, what="the rows")
    max_code = np.float32(MAX_CODES[bits])
    largest_N = np.maximum(np.abs(weight_ND).max(axis=1), SMALLEST_MAXIMUM)
    inverse_N = max_code / largest_N
    codes = np.rint(weight_ND * inverse_N[:, None]).astype(np.int8)
    return RowWeights(codes=codes, scales=largest_N / max_code, bits=bits)


def dequantize_rows(rows: RowWeights) -> NDArray[np.float32]:
    """The float32 table that the codes stand for."""
    return rows.codes.astype(np.float32) * rows.scales[:, None]


def lookup_rows(rows: RowWeights, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """The rows of some ids in float32, scale × code: [ids, inputs]."""
    num_rows = rows.codes.shape[0]
    if ids.size and (ids.min() < 0 or ids.max() >= num_rows):
        raise UsageError(f"ids must lie in 0 … {num_rows - 1}, got {ids.min()} … {ids.max()}")
    return rows.codes[ids].astype(np.float32) * rows.scales[ids][:, None]


def rows_matmul(rows: RowWeights, acts: QuantizedActivations) -> NDArray[np.float32]:
    """The head's product for any number of tokens, [tokens, rows], as the module's docstring defines it."""
    num_rows, num_inputs = rows.codes.shape
    checked_inputs(acts, num_inputs=num_inputs)
    sum_TN = np.zeros((acts.codes.shape[0], num_rows), dtype=np.float32)
    for block in range(num_blocks(num_inputs)):
        sum_TN += acts.scales[:, block, None] * block_sums(rows.codes, acts, block=block)
    return rows.scales[None, :] * sum_TN
