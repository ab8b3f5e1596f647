"""The codes of packed tiles in the order of `MatMulNBits`: by rows, inputs in order, low bits first.

A field holds the weight plus 2, 8 or 128, for 2, 4 or 8 bits, so no zero points are stored. Inputs are padded
with weights of 0 to whole blocks. All work is on words of 32 bits, which hold one tile's
inputs of one row in a file and in the result.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from configs.errors import ContainerError
from quant.embedding import RowBits
from quant.packing import (
    ROW_PAIR,
    TILE_INPUTS,
    PackedRows,
    PackedTernary,
    first_invalid_code,
    pack_ternary,
    unpack_scales,
)
from quant.sherry_packing import PackedSherry, unpack_sherry

ZERO_WORD: dict[RowBits, int] = {2: 0xAAAAAAAA, 4: 0x88888888, 8: 0x80808080}
_PIECE_WORDS = 1 << 18


def row_bytes(num_inputs: int, *, bits: RowBits, block: int) -> int:
    """Bytes of a row."""
    return -(-num_inputs // block) * block * bits // 8


def ternary_rows(packed: PackedTernary | PackedSherry, *, block: int) -> Iterator[NDArray[np.uint8]]:
    """A ternary matrix, some rows at a time."""
    width = row_bytes(packed.num_inputs, bits=2, block=block)
    for first, after in _parts(packed.num_rows, packed.num_inputs, bits=2):
        piece = _part(packed, first=first, after=after)
        yield _rows(piece.codes, bits=2, num_rows=piece.num_rows, row_bytes=width)


def table_rows(packed: PackedRows, *, block: int) -> Iterator[NDArray[np.uint8]]:
    """A table of rows with one scale each, some rows at a time."""
    width = row_bytes(packed.num_inputs, bits=packed.bits, block=block)
    for first, after in _parts(packed.num_rows, packed.num_inputs, bits=packed.bits):
        tiles = packed.codes[first // ROW_PAIR : -(-after // ROW_PAIR)]
        yield _rows(tiles, bits=packed.bits, num_rows=after - first, row_bytes=width)


def group_scales(packed: PackedTernary | PackedSherry) -> NDArray[np.float16]:
    """Scales by rows: [rows, groups of 128]."""
    return unpack_scales(packed.scales, num_rows=packed.num_rows)


def _parts(num_rows: int, num_inputs: int, *, bits: RowBits) -> Iterator[tuple[int, int]]:
    words = -(-num_inputs // TILE_INPUTS[bits])
    at_once = max(1, _PIECE_WORDS // (words * ROW_PAIR)) * ROW_PAIR
    for first in range(0, num_rows, at_once):
        yield first, min(first + at_once, num_rows)


def _part(packed: PackedTernary | PackedSherry, *, first: int, after: int) -> PackedTernary:
    pairs = slice(first // ROW_PAIR, -(-after // ROW_PAIR))
    kind = type(packed)
    part = kind(
        codes=packed.codes[pairs],
        scales=packed.scales[pairs],
        num_rows=after - first,
        num_inputs=packed.num_inputs,
    )
    return pack_ternary(unpack_sherry(part)) if isinstance(part, PackedSherry) else part


def _rows(
    codes: NDArray[np.uint8] | NDArray[np.int8], *, bits: RowBits, num_rows: int, row_bytes: int
) -> NDArray[np.uint8]:
    at = first_invalid_code(codes, bits=bits)
    if at is not None:
        raise ContainerError(
            f"the byte at {at} of the tiles is {int(codes.view(np.uint8)[at])}; no weight of {bits} bits has "
            "such a code",
            hint="The file is damaged: fetch or export it again.",
        )
    pairs, tiles = codes.shape[:2]
    words = np.ascontiguousarray(codes).view(np.uint32).reshape(pairs, tiles, 2, 16)
    by_row = words.transpose(0, 2, 3, 1).reshape(pairs * ROW_PAIR, tiles)[:num_rows]
    result = np.full((num_rows, row_bytes // 4), ZERO_WORD[bits], dtype=np.uint32)
    # A tile's last inputs may be padding beyond the last block.
    kept = min(tiles, row_bytes // 4)
    result[:, :kept] = _IN_ORDER[bits](by_row[:, :kept])
    return result.view(np.uint8)


def _two_bits(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Byte c, field f ↔ byte f, field c: two rounds of swaps transpose four by four fields; then plus one."""
    swapped = (words ^ words >> np.uint32(6)) & np.uint32(0x00CC00CC)
    words = words ^ (swapped | swapped << np.uint32(6))
    swapped = (words ^ words >> np.uint32(12)) & np.uint32(0x0000F0F0)
    words = words ^ (swapped | swapped << np.uint32(12))
    return words + np.uint32(0x55555555)


def _four_bits(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Byte c holds inputs c and 4 + c."""
    result = np.zeros_like(words)
    for place in range(8):
        from_bit = 8 * (place % 4) + 4 * (place // 4)
        result |= (words >> np.uint32(from_bit) & np.uint32(15)) << np.uint32(4 * place)
    return result


def _eight_bits(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Signed bytes plus 128."""
    return words ^ np.uint32(0x80808080)


_IN_ORDER = {2: _two_bits, 4: _four_bits, 8: _eight_bits}
