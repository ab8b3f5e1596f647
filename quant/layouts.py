"""How the codes of a ternary matrix may lie in memory. Each layout has its own product, with the same bits.

`tiles` are what a file holds; the others are made of them when a model is opened, where `quant.choice` found
them to be faster on this machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.columns import pack_columns
from quant.layout_names import Layout
from quant.packing import INPUTS_PAD, PackedTernary, codes_shape, num_pairs
from quant.trits import pack_trits, pair_bytes

PRODUCTS: dict[Layout, str] = {
    "tiles": "ternary_matmul",
    "columns": "lookup_matmul",
    "trits": "trits_matmul",
}
"""The operation that multiplies a matrix of each layout."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LaidTernary:
    """A ternary matrix whose codes lie otherwise than in tiles; the scales are those of the tiles."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]  # [pairs, groups, 2, 16]
    num_rows: int
    num_inputs: int
    layout: Layout


def laid_out(
    packed: PackedTernary,
    *,
    layout: Layout,
    pack: Callable[[PackedTernary], NDArray[np.uint8]] = pack_trits,
) -> LaidTernary:
    """A matrix in another layout. `pack` makes trits: the reference, or something faster."""
    match layout:
        case "tiles":
            codes = packed.codes
        case "columns":
            codes = pack_columns(packed)
        case "trits":
            codes = pack(packed)
    return LaidTernary(
        codes=codes,
        scales=packed.scales,
        num_rows=packed.num_rows,
        num_inputs=packed.num_inputs,
        layout=layout,
    )


def laid_shape(num_rows: int, num_inputs: int, *, layout: Layout) -> tuple[int, ...]:
    """The shape of a matrix's codes."""
    pairs, num_blocks = num_pairs(num_rows), -(-num_inputs // INPUTS_PAD)
    match layout:
        case "tiles":
            return codes_shape(num_rows, num_inputs, bits=2)
        case "columns":
            return pairs, num_blocks * 4, 4, 32
        case "trits":
            return pairs, pair_bytes(num_blocks)
