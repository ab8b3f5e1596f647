"""Five ternary weights in a byte, 1.6 bits each: made of the 2-bit tiles of a file, for kernels of their own.

A byte holds one weight of each of five blocks of 64 inputs, so blocks keep their borders and scales. With
digits d₀ … d₄ (weight + 1, of blocks 0 … 4) and x = 81·d₀ + 27·d₁ + 9·d₂ + 3·d₃ + d₄ it is

    b = ⌈256·x / 243⌉,    then   dₖ = ⌊3·bₖ / 256⌋,  bₖ₊₁ = 3·bₖ mod 256

A pair of row blocks is its fives of blocks, each codes[16, 2, 64] (tile u, half, byte 4r+c: input 4u+c of
every block), and then the blocks that are left, up to four, as 2-bit tiles. Scales stay what they are.
"""

import numpy as np
from numpy.typing import NDArray

from quant.packing import INPUTS_PAD, PackedTernary, num_pairs

FIVE = 5
FIVE_BYTES = 2048  # 32 rows of five blocks
BLOCK_BYTES = 512  # 32 rows of one block of 2-bit tiles


def pair_bytes(num_blocks: int) -> int:
    """Bytes of 32 rows."""
    return num_blocks // FIVE * FIVE_BYTES + num_blocks % FIVE * BLOCK_BYTES


def pack_trits(packed: PackedTernary) -> NDArray[np.uint8]:
    """The codes of a matrix in 1.6 bits, [pairs, bytes of a pair]."""
    pairs, num_blocks = num_pairs(packed.num_rows), -(-packed.num_inputs // INPUTS_PAD)
    fives = num_blocks // FIVE
    packed_P = np.empty((pairs, pair_bytes(num_blocks)), dtype=np.uint8)
    tiles = packed.codes.reshape(pairs, num_blocks, 4, 2, 64)
    packed_P[:, fives * FIVE_BYTES :] = tiles[:, fives * FIVE :].reshape(pairs, -1)
    whole = packed_P[:, : fives * FIVE_BYTES].reshape(pairs, fives, 4, 4, 2, 64)
    if fives:
        for first in range(0, pairs, 64):  # by parts, or a large matrix would need many times its size
            part = slice(first, first + 64)
            source = tiles[part, : fives * FIVE].reshape(-1, fives, FIVE, 4, 2, 64)
            for field in range(4):
                digits = (source >> np.uint8(2 * field)) & np.uint8(3)
                whole[part, :, :, field] = _BYTE_OF[_value(digits)]
    return packed_P


def unpack_trits(codes: NDArray[np.uint8], *, num_blocks: int) -> NDArray[np.uint8]:
    """The 2-bit tiles again, [pairs, inputs/16, 2, 64]."""
    pairs, fives = len(codes), num_blocks // FIVE
    tiles = np.zeros((pairs, num_blocks, 4, 2, 64), dtype=np.uint8)
    tiles[:, fives * FIVE :] = codes[:, fives * FIVE_BYTES :].reshape(pairs, -1, 4, 2, 64)
    rest = codes[:, : fives * FIVE_BYTES].reshape(pairs, fives, 4, 4, 2, 64)
    for k in range(FIVE):
        wide = rest.astype(np.uint16) * np.uint16(3)
        rest = wide.astype(np.uint8)
        for field in range(4):
            digit = (wide[:, :, :, field] >> 8).astype(np.uint8)
            tiles[:, k : fives * FIVE : FIVE] |= digit << np.uint8(2 * field)
    return tiles.reshape(pairs, num_blocks * 4, 2, 64)


def _value(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """x of digits [pairs, fives, 5, …]."""
    x = digits[:, :, 0]
    for k in range(1, FIVE):
        x = x * np.uint8(3) + digits[:, :, k]
    return x


_BYTE_OF = (-(-256 * np.arange(256, dtype=np.int64) // 243)).clip(max=255).astype(np.uint8)
