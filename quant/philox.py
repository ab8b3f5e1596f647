"""Random numbers by counting, many at a time: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3") over arrays.

A number depends on its key and its counter alone, so a direction of weights need not be kept: it is computed
again wherever it is wanted, on any machine, in pieces of any size. All of it is integers.

    key        the seed, low word first
    counter    (block, stream, step, pair): four words for each block; what a stream is, its user says
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Counters = NDArray[np.uint64]

WORDS = 4
"""Words of 32 bits that a block gives."""
BLOCK_BITS = 32 * WORDS
ROUNDS = 10
_AT_ONCE = 1 << 14
"""Blocks that are computed together: few enough for the cache."""
_FIRST, _SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_LOW, _HALF = np.uint64(_MASK), np.uint64(32)


def random_words(
    count: int, *, seed: int, stream: int = 0, step: int = 0, pair: int = 0, first_block: int = 0
) -> Words:
    """The words of so many blocks, [count, 4]."""
    found = np.empty((count, WORDS), dtype=np.uint32)
    for begin in range(0, count, _AT_ONCE):
        end = min(begin + _AT_ONCE, count)
        found[begin:end] = _blocks(
            first_block + begin,
            end - begin,
            key=(seed & _MASK, seed >> 32 & _MASK),
            rest=(stream, step, pair),
        )
    return found


def words_of_moves(
    count: int, *, seed: int, stream: int, steps: Sequence[int], pairs: Sequence[int]
) -> Words:
    """The words of so many blocks in each of some directions of a stream, [directions, count, 4]."""
    blocks = np.arange(count, dtype=np.uint64)[None, :]
    step_words, pair_words = (np.array(words, dtype=np.uint64)[:, None] & _LOW for words in (steps, pairs))
    streams = np.array([[stream & _MASK]], dtype=np.uint64)
    return _mixed((blocks, streams, step_words, pair_words), key=(seed & _MASK, seed >> 32 & _MASK))


def signs_of_moves(
    count: int, *, seed: int, stream: int, steps: Sequence[int], pairs: Sequence[int]
) -> NDArray[np.int8]:
    """The signs of some directions of a stream, [directions, count], each as `random_signs` gives them."""
    words = words_of_moves(-(-count // BLOCK_BITS), seed=seed, stream=stream, steps=steps, pairs=pairs)
    flat = words.astype("<u4").reshape(len(steps), -1).view(np.uint8)
    bits = np.unpackbits(flat, axis=1, count=count, bitorder="little")
    return (bits.view(np.int8) << 1) - np.int8(1)


def random_signs(count: int, *, seed: int, stream: int = 0, step: int = 0, pair: int = 0) -> NDArray[np.int8]:
    """So many of −1 and 1, each as likely: number 128n + 32w + b is bit b of word w of block n, 1 for +."""
    return np.concatenate(
        [*_signs(count, seed=seed, stream=stream, step=step, pair=pair), np.empty(0, dtype=np.int8)]
    )


def _signs(count: int, *, seed: int, stream: int, step: int, pair: int) -> Iterator[NDArray[np.int8]]:
    for begin in range(0, count, _AT_ONCE * BLOCK_BITS):
        size = min(count - begin, _AT_ONCE * BLOCK_BITS)
        words = random_words(
            -(-size // BLOCK_BITS),
            seed=seed,
            stream=stream,
            step=step,
            pair=pair,
            first_block=begin // BLOCK_BITS,
        )
        bits = np.unpackbits(words.astype("<u4").view(np.uint8), count=size, bitorder="little")
        yield (bits.view(np.int8) << 1) - np.int8(1)


def _blocks(first: int, count: int, *, key: tuple[int, int], rest: tuple[int, int, int]) -> Words:
    c0 = np.arange(first, first + count, dtype=np.uint64) & _LOW
    c1, c2, c3 = (np.array([word & _MASK], dtype=np.uint64) for word in rest)
    return _mixed((c0, c1, c2, c3), key=key)


def _mixed(counters: tuple[Counters, ...], *, key: tuple[int, int]) -> Words:
    """The words of counters whose parts broadcast, [..., 4]."""
    c0, c1, c2, c3 = np.broadcast_arrays(*counters)
    k0, k1 = key
    for _ in range(ROUNDS):
        low, high = c0 * _FIRST, c2 * _SECOND
        c0, c1 = (high >> _HALF) ^ c1 ^ np.uint64(k0), high & _LOW
        c2, c3 = (low >> _HALF) ^ c3 ^ np.uint64(k1), low & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)
