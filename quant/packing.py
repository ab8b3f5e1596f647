"""Tiles: the bytes that the kernels read, and the same bytes in a file.

Rows are padded to 32, inputs to 64. Row pair p holds rows 32p … 32p+31 as two blocks h of 16 rows. A tile is
64 bytes, 16 rows r of 4 bytes; tiles of both blocks alternate, so that a pair is one stream.

    ternary, 2 bits   codes[pairs, inputs/16, 2, 64]   byte 4r+c: inputs 16t + c, 4+c, 8+c, 12+c, low bits
                                                       first, each as weight + 1; 3 is invalid
    4 bits            codes[pairs, inputs/8, 2, 64]    byte 4r+c: input 8t+c in the low half, 8t+4+c in the
                                                       high half, each as weight + 8; 0 is invalid
    8 bits            codes[pairs, inputs/4, 2, 64]    byte 4r+c: input 4t+c, signed; −128 is invalid

Ternary scales are float16 [pairs, groups of 128, 2, 16], row scales float32 [pairs, 2, 16]. Padding has
weight 0, and scale 0 in padded rows.

All packing goes by 32-bit words: one word is the four bytes of a row in a tile, and because every field fits
its byte, four weights move with one shift.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.errors import ContainerError, UsageError
from quant.embedding import MAX_CODES, RowBits, RowWeights
from quant.ternary import GROUP, TernaryWeights, num_groups, regroup

ROW_PAIR = 32
INPUTS_PAD = 64
TILE_BYTES = 64
TILE_INPUTS: dict[RowBits, int] = {8: 4, 4: 8, 2: 16}
_BIAS: dict[RowBits, int] = {8: 0, 4: 8, 2: 1}
_FIELD_MASK: dict[RowBits, np.uint32] = {4: np.uint32(0x0F0F0F0F), 2: np.uint32(0x03030303)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedTernary:
    """A ternary matrix in tiles."""

    codes: NDArray[np.uint8]  # [pairs, inputs/16, 2, 64]
    scales: NDArray[np.float16]  # [pairs, groups, 2, 16]
    num_rows: int
    num_inputs: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedRows:
    """A table of quantised rows in tiles; the codes are signed bytes with 8 bits, else fields of bytes."""

    codes: NDArray[np.uint8] | NDArray[np.int8]  # [pairs, inputs/(4, 8 or 16), 2, 64]
    scales: NDArray[np.float32]  # [pairs, 2, 16]
    num_rows: int
    num_inputs: int
    bits: RowBits


def num_pairs(num_rows: int) -> int:
    """Pairs of 16-row blocks that hold `num_rows` rows."""
    return -(-num_rows // ROW_PAIR)


def codes_shape(num_rows: int, num_inputs: int, *, bits: RowBits) -> tuple[int, int, int, int]:
    """The shape of the tiles of a matrix."""
    padded_inputs = -(-num_inputs // INPUTS_PAD) * INPUTS_PAD
    return num_pairs(num_rows), padded_inputs // TILE_INPUTS[bits], 2, TILE_BYTES


def ternary_scales_shape(num_rows: int, num_inputs: int) -> tuple[int, int, int, int]:
    """The shape of a ternary matrix's scale tiles."""
    return num_pairs(num_rows), num_groups(num_inputs, group_size=GROUP), 2, 16


def row_scales_shape(num_rows: int) -> tuple[int, int, int]:
    """The shape of a table's row scales."""
    return num_pairs(num_rows), 2, 16


def pack_ternary(weights: TernaryWeights) -> PackedTernary:
    """Tiles of a ternary matrix, which may come in pieces of whole row pairs: their tiles join end to end."""
    weights = regroup(weights)
    num_rows, num_inputs = weights.codes.shape
    return PackedTernary(
        codes=_pack(weights.codes, bits=2),
        scales=pack_scales(weights.scales),
        num_rows=num_rows,
        num_inputs=num_inputs,
    )


def pack_scales(scales_OG: NDArray[np.float16]) -> NDArray[np.float16]:
    """Scales of groups in tile order."""
    num_rows, groups = scales_OG.shape
    pairs = num_pairs(num_rows)
    scales = np.zeros((pairs * ROW_PAIR, groups), dtype=np.float16)
    scales[:num_rows] = scales_OG
    return np.ascontiguousarray(scales.reshape(pairs, 2, 16, groups).transpose(0, 3, 1, 2))


def unpack_scales(scales: NDArray[np.float16], *, num_rows: int) -> NDArray[np.float16]:
    """Scales of groups by rows."""
    pairs, groups = scales.shape[:2]
    by_row = scales.transpose(0, 2, 3, 1).reshape(pairs * ROW_PAIR, groups)
    return np.ascontiguousarray(by_row[:num_rows])


def unpack_ternary(packed: PackedTernary) -> TernaryWeights:
    """The codes and scales that the tiles hold."""
    return TernaryWeights(
        codes=_unpack(packed.codes, bits=2, num_rows=packed.num_rows, num_inputs=packed.num_inputs),
        scales=unpack_scales(packed.scales, num_rows=packed.num_rows),
        group_size=GROUP,
    )


def pack_rows(rows: RowWeights) -> PackedRows:
    """Tiles of a table of quantised rows; it may come in pieces of whole row pairs."""
    num_rows, num_inputs = rows.codes.shape
    scales = np.zeros(num_pairs(num_rows) * ROW_PAIR, dtype=np.float32)
    scales[:num_rows] = rows.scales
    codes = _pack(rows.codes, bits=rows.bits)
    return PackedRows(
        codes=codes.view(np.int8) if rows.bits == 8 else codes,
        scales=scales.reshape(row_scales_shape(num_rows)),
        num_rows=num_rows,
        num_inputs=num_inputs,
        bits=rows.bits,
    )


def unpack_rows(packed: PackedRows) -> RowWeights:
    """The table that the tiles hold."""
    return RowWeights(
        codes=_unpack(packed.codes, bits=packed.bits, num_rows=packed.num_rows, num_inputs=packed.num_inputs),
        scales=packed.scales.reshape(-1)[: packed.num_rows].copy(),
        bits=packed.bits,
    )


def unpack_row(packed: PackedRows, *, row: int) -> NDArray[np.float32]:
    """One dequantised row out of the tiles, without unpacking the others: an embedding's lookup."""
    if not 0 <= row < packed.num_rows:
        raise UsageError(f"the table has rows 0 … {packed.num_rows - 1}, got {row}")
    pair, in_pair = divmod(row, ROW_PAIR)
    half, in_block = divmod(in_pair, 16)
    in_tiles = np.ascontiguousarray(packed.codes[pair, :, half, 4 * in_block : 4 * in_block + 4])
    codes = _split_fields(in_tiles.view(np.uint32)[None], bits=packed.bits)[0, : packed.num_inputs]
    return codes.astype(np.float32) * packed.scales[pair, half, in_block]


def first_invalid_code(
    codes: NDArray[np.uint8] | NDArray[np.int8], *, bits: RowBits
) -> tuple[int, ...] | None:
    """Where in an array of tiles the first byte with a code that no weight has stands, or None."""
    raw = codes.view(np.uint8)
    if bits == 8:
        bad = raw == 0x80
    elif bits == 4:
        bad = ((raw & 0x0F) == 0) | ((raw & 0xF0) == 0)
    else:
        bad = (raw & (raw >> 1) & 0x55) != 0
    if not bad.any():
        return None
    return tuple(int(at) for at in np.unravel_index(int(bad.argmax()), bad.shape))


def has_dirty_padding(packed: PackedTernary | PackedRows) -> bool:
    """Whether a padded row or input has a weight, or a padded row a scale. The codes must be valid."""
    bits = packed.bits if isinstance(packed, PackedRows) else 2
    last_rows = packed.num_rows % ROW_PAIR or ROW_PAIR
    last_inputs = packed.num_inputs % INPUTS_PAD or INPUTS_PAD
    pairs, tiles = packed.codes.shape[:2]
    padded_inputs = tiles * TILE_INPUTS[bits]
    last_pair = _unpack(packed.codes[-1:], bits=bits, num_rows=ROW_PAIR, num_inputs=padded_inputs)
    right_edge = _unpack(
        packed.codes[:, -(INPUTS_PAD // TILE_INPUTS[bits]) :],
        bits=bits,
        num_rows=pairs * ROW_PAIR,
        num_inputs=INPUTS_PAD,
    )
    last_scales = packed.scales[-1].reshape(-1, ROW_PAIR)
    return bool(
        last_pair[last_rows:].any() or right_edge[:, last_inputs:].any() or last_scales[:, last_rows:].any()
    )


def _pack(codes_OI: NDArray[np.int8], *, bits: RowBits) -> NDArray[np.uint8]:
    num_rows, num_inputs = codes_OI.shape
    limit = MAX_CODES[bits]
    if codes_OI.dtype != np.int8 or codes_OI.min() < -limit or codes_OI.max() > limit:
        raise UsageError(
            f"codes of {bits} bits must be int8 from {-limit} to {limit}, got {codes_OI.dtype} from "
            f"{codes_OI.min()} to {codes_OI.max()}"
        )
    pairs, tiles, _, _ = codes_shape(num_rows, num_inputs, bits=bits)
    fields = TILE_INPUTS[bits] // 4
    padded = np.full((pairs * ROW_PAIR, tiles * TILE_INPUTS[bits]), _BIAS[bits], dtype=np.int8)
    np.add(codes_OI, np.int8(_BIAS[bits]), out=padded[:num_rows, :num_inputs])
    words = padded.view(np.uint32).reshape(pairs, 2, 16, tiles, fields)
    joined = words[..., 0].copy()
    for field in range(1, fields):
        joined |= words[..., field] << np.uint32(field * bits)
    return (
        np.ascontiguousarray(joined.transpose(0, 3, 1, 2)).view(np.uint8).reshape(pairs, tiles, 2, TILE_BYTES)
    )


def _unpack(
    codes: NDArray[np.uint8] | NDArray[np.int8], *, bits: RowBits, num_rows: int, num_inputs: int
) -> NDArray[np.int8]:
    expected = codes_shape(num_rows, num_inputs, bits=bits)
    if codes.shape != expected:
        raise ContainerError(
            f"tiles of a {num_rows} × {num_inputs} matrix of {bits} bits must have the shape {expected}, got "
            f"{codes.shape}"
        )
    at = first_invalid_code(codes, bits=bits)
    if at is not None:
        raise ContainerError(
            f"the byte at {at} of the tiles is {int(codes.view(np.uint8)[at])}; no weight of {bits} bits has "
            "such a code",
            hint="The file is damaged: fetch or export it again.",
        )
    pairs, tiles = codes.shape[:2]
    words = np.ascontiguousarray(codes).view(np.uint32).reshape(pairs, tiles, 2, 16)
    by_row = np.ascontiguousarray(words.transpose(0, 2, 3, 1)).reshape(pairs * ROW_PAIR, tiles)
    return np.ascontiguousarray(_split_fields(by_row[:num_rows, :, None], bits=bits)[:, :num_inputs])


def _split_fields(words: NDArray[np.uint32], *, bits: RowBits) -> NDArray[np.int8]:
    """Signed weights of words [rows, tiles, 1]: [rows, inputs]."""
    if bits == 8:
        return words.reshape(len(words), -1).view(np.int8)
    shifts = np.arange(0, 8, bits, dtype=np.uint32)
    biased = ((words >> shifts) & _FIELD_MASK[bits]).reshape(len(words), -1).view(np.int8)
    return biased - np.int8(_BIAS[bits])
