"""Ternary weights as indices into tables of sums: TL1 and TL2 of bitnet.cpp, as plain references.

    TL1   two weights, 9 values    an index of 4 bits                    2 bits a weight
    TL2   three weights, 27 values an index of 4 bits and a sign of 1    1.69 bits a weight

A product makes a table of the sums that each two or three activations can give, and adds up what the indices
name. TL2 keeps one of v and −v, and the sign turns what was looked up. Sums are int16 and exact: |Σ| ≤ 3·127.

Groups and blocks stay those of `quant.ternary`: a block of 64 activations has a scale of its own, so no
triple may lie in two. In TL2 a block is 20 triples and 2 pairs. Both products give `ternary_matmul`'s bits.

No kernel uses these forms here. They say what a file of another program means, and what its kernel gives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import ContainerError
from quant.activations import BLOCK, QuantizedActivations, num_blocks
from quant.ternary import TernaryWeights, checked_inputs

BlockSums: TypeAlias = Callable[[NDArray[np.int16], int], NDArray[np.int16]]
"""Σ code · q of one block by its number, [tokens, rows], from the tokens' codes."""

TRIPLES_A_BLOCK = 20
PAIRS_BEHIND = 2
_IN_TRIPLES = 3 * TRIPLES_A_BLOCK
NUM_PAIR_VALUES, NUM_TRIPLE_VALUES = 9, 14


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TL1Weights:
    """Pairs by index, two of them a byte, the first in the low half."""

    pairs: NDArray[np.uint8]  # [rows, blocks, 16]
    scales: NDArray[np.float16]  # [rows, groups]
    group_size: int
    num_inputs: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TL2Weights:
    """Triples by index, two of them a byte; their signs, eight a byte, lowest bit first; the pairs behind."""

    triples: NDArray[np.uint8]  # [rows, blocks, 10]
    signs: NDArray[np.uint8]  # [rows, bytes of 20 bits a block]
    pairs: NDArray[np.uint8]  # [rows, blocks, 1]
    scales: NDArray[np.float16]  # [rows, groups]
    group_size: int
    num_inputs: int


def pack_tl1(weights: TernaryWeights) -> TL1Weights:
    """The indices of all pairs."""
    return TL1Weights(
        pairs=_nibbles(_pair_indices(_blocks_of(weights.codes))),
        scales=weights.scales,
        group_size=weights.group_size,
        num_inputs=weights.codes.shape[1],
    )


def unpack_tl1(packed: TL1Weights) -> TernaryWeights:
    """The codes that the indices stand for."""
    codes = _pair_codes(_indices(packed.pairs, most=NUM_PAIR_VALUES, what="a pair"))
    return _weights(codes, packed)


def tl1_matmul(packed: TL1Weights, acts: QuantizedActivations) -> NDArray[np.float32]:
    """The product by tables, [tokens, rows]."""
    indices = _indices(packed.pairs, most=NUM_PAIR_VALUES, what="a pair")

    def block_sums(q_TI: NDArray[np.int16], block: int) -> NDArray[np.int16]:
        return _looked_up(q_TI.reshape(len(q_TI), -1, 2), _PAIRS, indices[:, block])

    return _matmul(packed, acts, rows=len(indices), block_sums=block_sums)


def pack_tl2(weights: TernaryWeights) -> TL2Weights:
    """The indices and signs of all triples, and the indices of the pairs behind them."""
    blocks = _blocks_of(weights.codes)
    triples = blocks[..., :_IN_TRIPLES].reshape(*blocks.shape[:2], -1, 3)
    values = triples @ np.array([9, 3, 1], dtype=np.int8)
    return TL2Weights(
        triples=_nibbles(np.abs(values).astype(np.uint8)),
        signs=np.packbits((values < 0).reshape(len(values), -1), axis=1, bitorder="little"),
        pairs=_nibbles(_pair_indices(blocks[..., _IN_TRIPLES:])),
        scales=weights.scales,
        group_size=weights.group_size,
        num_inputs=weights.codes.shape[1],
    )


def unpack_tl2(packed: TL2Weights) -> TernaryWeights:
    """The codes that indices and signs stand for."""
    triples, turns = _triples_of(packed)
    codes = (_TRIPLES[triples] * turns[..., None]).reshape(*triples.shape[:2], -1)
    pairs = _pair_codes(_indices(packed.pairs, most=NUM_PAIR_VALUES, what="a pair"))
    return _weights(np.concatenate((codes, pairs), axis=2), packed)


def tl2_matmul(packed: TL2Weights, acts: QuantizedActivations) -> NDArray[np.float32]:
    """The product by tables, [tokens, rows]."""
    triples, turns = _triples_of(packed)
    pairs = _indices(packed.pairs, most=NUM_PAIR_VALUES, what="a pair")

    def block_sums(q_TI: NDArray[np.int16], block: int) -> NDArray[np.int16]:
        three = q_TI[:, :_IN_TRIPLES].reshape(len(q_TI), -1, 3)
        two = q_TI[:, _IN_TRIPLES:].reshape(len(q_TI), -1, 2)
        sums = _looked_up(three, _TRIPLES, triples[:, block], turns=turns[:, block])
        return sums + _looked_up(two, _PAIRS, pairs[:, block])

    return _matmul(packed, acts, rows=len(triples), block_sums=block_sums)


def _digits(first: int, last: int, *, size: int) -> NDArray[np.int8]:
    """The ternary digits −1, 0, 1 of whole numbers, the highest first: [numbers, size]."""
    shifted = np.arange(first, last + 1) + (3**size - 1) // 2
    return np.stack([shifted // 3**place % 3 - 1 for place in reversed(range(size))], axis=1).astype(np.int8)


_PAIRS = _digits(-4, 4, size=2)
_TRIPLES = _digits(0, 13, size=3)


def _blocks_of(codes_OI: NDArray[np.int8]) -> NDArray[np.int8]:
    """[rows, blocks, 64], filled up with zeros."""
    num_rows, num_inputs = codes_OI.shape
    blocks = num_blocks(num_inputs)
    padded = np.zeros((num_rows, blocks * BLOCK), dtype=np.int8)
    padded[:, :num_inputs] = codes_OI
    return padded.reshape(num_rows, blocks, BLOCK)


def _pair_indices(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    pairs = codes.reshape(*codes.shape[:2], -1, 2)
    return (pairs @ np.array([3, 1], dtype=np.int8) + 4).astype(np.uint8)


def _pair_codes(indices: NDArray[np.uint8]) -> NDArray[np.int8]:
    return _PAIRS[indices].reshape(*indices.shape[:2], -1)


def _nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return values[..., ::2] | values[..., 1::2] << np.uint8(4)


def _indices(packed: NDArray[np.uint8], *, most: int, what: str) -> NDArray[np.uint8]:
    indices = np.stack((packed & np.uint8(15), packed >> np.uint8(4)), axis=-1).reshape(*packed.shape[:2], -1)
    if (indices >= most).any():
        raise ContainerError(f"{indices.max()} is the index of {what}; allowed are 0 … {most - 1}")
    return indices


def _triples_of(packed: TL2Weights) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Indices, and 1 or −1, of all triples."""
    indices = _indices(packed.triples, most=NUM_TRIPLE_VALUES, what="a triple")
    bits = np.unpackbits(packed.signs, axis=1, bitorder="little")
    used = bits[:, : indices[0].size].reshape(indices.shape)
    if (used & (indices == 0)).any() or bits[:, indices[0].size :].any():
        raise ContainerError("a sign bit is set where there is nothing to turn")
    return indices, 1 - 2 * used.astype(np.int8)


def _weights(codes: NDArray[np.int8], packed: TL1Weights | TL2Weights) -> TernaryWeights:
    whole = codes.reshape(len(codes), -1)
    return TernaryWeights(
        codes=np.ascontiguousarray(whole[:, : packed.num_inputs]),
        scales=packed.scales,
        group_size=packed.group_size,
    )


def _looked_up(
    q_TGK: NDArray[np.int16],
    values: NDArray[np.int8],
    indices_OG: NDArray[np.uint8],
    *,
    turns: NDArray[np.int8] | None = None,
) -> NDArray[np.int16]:
    """Σ of the sums that the indices name in each token's tables: [tokens, rows]."""
    tables_TGN = (q_TGK[:, :, None, :] * values[None, None]).sum(axis=3, dtype=np.int16)
    found_TOG = tables_TGN[:, np.arange(q_TGK.shape[1]), indices_OG]
    return (found_TOG if turns is None else found_TOG * turns).sum(axis=2, dtype=np.int16)


def _matmul(
    packed: TL1Weights | TL2Weights, acts: QuantizedActivations, *, rows: int, block_sums: BlockSums
) -> NDArray[np.float32]:
    checked_inputs(acts, num_inputs=packed.num_inputs)
    y_TO = np.zeros((len(acts.codes), rows), dtype=np.float32)
    for block in range(num_blocks(packed.num_inputs)):
        q_TI = acts.codes[:, block * BLOCK : (block + 1) * BLOCK].astype(np.int16)
        scales_O = packed.scales[:, block * BLOCK // packed.group_size].astype(np.float32)
        y_TO += scales_O[None, :] * acts.scales[:, block, None] * block_sums(q_TI, block).astype(np.float32)
    return y_TO
