"""Sherry's tiles: 5 bits for four weights, in the bytes that the kernels read and a file holds.

Rows are padded to 32, inputs to 64. Row pair p holds rows 32p … 32p+31 as two halves h of 16 rows. A pair and
64 inputs take five lines of 64 bytes, codes[pairs, blocks, 5, 64]; a line has 4 bytes for each of 16 rows r:

    lines 2u + h   byte 4r+g: the pattern of the four inputs 32u + 4g … of row 16h + r in the low half, that
                   of inputs 32u + 16 + 4g … in the high half
    line 4         byte 4r+g: bit 4h + t is the sign of the four inputs 16t + 4g … of row 16h + r

A pattern's low two bits say which weight z is 0. The others have sign bits, 1 for minus: weight i < 3 has bit
i of three, and weight 3 has the bit of the zero. Bit 0 of the three is the sign; bits 1 and 2, each xor the
sign, are the pattern's high bits. So a sign turns a whole pattern, and a table of 16 serves both.

Scales are those of `quant.packing`. All 32 values are weights, so padding cannot be told by its codes: padded
rows have scale 0, and padded inputs meet activations of 0. Both hold pattern and sign 0, and where a row's
last four are cut, what is beyond is a 0 if there is none before, and else +1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.errors import ContainerError, UsageError
from quant.activations import BLOCK, num_blocks
from quant.packing import ROW_PAIR, TILE_BYTES, num_pairs, pack_scales, unpack_scales
from quant.sherry import FOUR, obeys_three_of_four
from quant.ternary import GROUP, TernaryWeights, regroup

LINES = 5
_FOURS = BLOCK // FOUR


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedSherry:
    """A ternary matrix with one zero in every four, in tiles."""

    codes: NDArray[np.uint8]  # [pairs, blocks, 5, 64]
    scales: NDArray[np.float16]  # [pairs, groups, 2, 16]
    num_rows: int
    num_inputs: int


def sherry_codes_shape(num_rows: int, num_inputs: int) -> tuple[int, int, int, int]:
    """The shape of the tiles of a matrix."""
    return num_pairs(num_rows), num_blocks(num_inputs), LINES, TILE_BYTES


def pattern_table() -> NDArray[np.int8]:
    """The four weights of each pattern with the sign plus, [16, 4]."""
    table = np.empty((16, FOUR), dtype=np.int8)
    for pattern in range(16):
        zero, turned = pattern & 3, (0, pattern >> 2 & 1, pattern >> 3)
        for place in range(FOUR):
            slot = place if place < 3 else zero
            table[pattern, place] = 0 if place == zero else 1 - 2 * turned[slot]
    return table


def pack_sherry(weights: TernaryWeights) -> PackedSherry:
    """Tiles of a matrix, which may come in pieces of whole row pairs: their tiles join end to end."""
    weights = regroup(weights)
    num_rows, num_inputs = weights.codes.shape
    if not obeys_three_of_four(weights.codes):
        raise UsageError(
            "the codes do not have exactly one zero in every four",
            hint="Quantise with quant.sherry.quantize_sherry.",
        )
    patterns, signs = _patterns(_filled(weights.codes))
    pairs, blocks, _, _ = sherry_codes_shape(num_rows, num_inputs)
    # [pairs, h, r, blocks, u, half of a byte, g], and the same with t for u and half of a byte
    patterns = _padded(patterns, pairs=pairs, blocks=blocks).reshape(pairs, 2, 16, blocks, 2, 2, 4)
    joined = patterns[..., 0, :] | patterns[..., 1, :] << 4
    codes = np.empty((pairs, blocks, LINES, 16, 4), dtype=np.uint8)
    codes[:, :, :4] = joined.transpose(0, 3, 4, 1, 2, 5).reshape(pairs, blocks, 4, 16, 4)
    signs = _padded(signs, pairs=pairs, blocks=blocks).reshape(pairs, 2, 16, blocks, 4, 4)
    bits = np.arange(8, dtype=np.uint8).reshape(2, 1, 1, 4, 1)
    codes[:, :, 4] = np.bitwise_or.reduce(signs << bits, axis=(1, 4)).transpose(0, 2, 1, 3)
    return PackedSherry(
        codes=codes.reshape(pairs, blocks, LINES, TILE_BYTES),
        scales=pack_scales(weights.scales),
        num_rows=num_rows,
        num_inputs=num_inputs,
    )


def unpack_sherry(packed: PackedSherry) -> TernaryWeights:
    """The codes and scales that the tiles hold."""
    expected = sherry_codes_shape(packed.num_rows, packed.num_inputs)
    if packed.codes.shape != expected:
        raise ContainerError(
            f"Sherry tiles of a {packed.num_rows} × {packed.num_inputs} matrix must have the shape "
            f"{expected}, got {packed.codes.shape}"
        )
    return TernaryWeights(
        codes=np.ascontiguousarray(_unpacked(packed.codes)[: packed.num_rows, : packed.num_inputs]),
        scales=unpack_scales(packed.scales, num_rows=packed.num_rows),
        group_size=GROUP,
    )


def has_dirty_sherry_padding(packed: PackedSherry) -> bool:
    """Whether padding differs from what packing writes there."""
    rows, inputs = packed.num_rows, packed.num_inputs
    last_rows = _unpacked(packed.codes[-1:])
    edge = _unpacked(packed.codes[:, -1:])
    cut, in_edge = rows - (len(packed.codes) - 1) * ROW_PAIR, inputs - (packed.codes.shape[1] - 1) * BLOCK
    plain = pattern_table()[0]
    right = np.tile(plain, (len(edge), _FOURS))
    right[:, :in_edge] = edge[:, :in_edge]
    if in_edge % FOUR:
        first = in_edge // FOUR * FOUR
        right[:, first : first + FOUR] = _filled(edge[:, first:in_edge])
    right[rows:] = np.tile(plain, _FOURS)
    return bool(
        (edge != right).any()
        or (last_rows[cut:] != np.tile(plain, last_rows.shape[1] // FOUR)).any()
        or packed.scales[-1].reshape(-1, ROW_PAIR)[:, cut:].any()
    )


def _filled(codes_OI: NDArray[np.int8]) -> NDArray[np.int8]:
    """Codes of whole fours: a cut one gets its zero, if it has none, and then ones."""
    num_rows, num_inputs = codes_OI.shape
    filled = np.ones((num_rows, -(-num_inputs // FOUR) * FOUR), dtype=np.int8)
    filled[:, :num_inputs] = codes_OI
    if num_inputs % FOUR:
        first = num_inputs // FOUR * FOUR
        filled[:, num_inputs] = (codes_OI[:, first:] == 0).any(axis=1)
    return filled


def _patterns(codes_OI: NDArray[np.int8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pattern and sign of every four, [rows, fours]."""
    fours = codes_OI.reshape(len(codes_OI), -1, FOUR)
    zero = (fours == 0).argmax(axis=2).astype(np.uint8)
    minus = (fours < 0).astype(np.uint8)
    slots = minus[..., :3]
    # The slot that the zero leaves free is that of the last weight.
    np.put_along_axis(minus, zero[..., None], minus[..., 3:], axis=2)
    sign = slots[..., 0]
    return zero | (slots[..., 1] ^ sign) << 2 | (slots[..., 2] ^ sign) << 3, sign


def _padded(values_OF: NDArray[np.uint8], *, pairs: int, blocks: int) -> NDArray[np.uint8]:
    padded = np.zeros((pairs * ROW_PAIR, blocks * _FOURS), dtype=np.uint8)
    padded[: len(values_OF), : values_OF.shape[1]] = values_OF
    return padded


def _unpacked(codes: NDArray[np.uint8]) -> NDArray[np.int8]:
    """All weights of some tiles, padding with them: [rows, inputs]."""
    pairs, blocks = codes.shape[:2]
    lines = codes.reshape(pairs, blocks, LINES, 16, 4)
    joined = lines[:, :, :4].reshape(pairs, blocks, 2, 2, 16, 4)
    patterns = np.stack((joined & 15, joined >> 4), axis=3)  # [pairs, blocks, u, half of a byte, h, r, g]
    bits = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)  # [h, u, half of a byte]
    signs = lines[:, :, 4, None, None, None] >> bits.transpose(1, 2, 0)[None, None, ..., None, None] & 1
    weights = pattern_table()[patterns] * (1 - 2 * signs.astype(np.int8))[..., None]
    return np.ascontiguousarray(weights.transpose(0, 4, 5, 1, 2, 3, 6, 7)).reshape(
        pairs * ROW_PAIR, blocks * BLOCK
    )
