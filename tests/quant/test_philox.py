"""Random numbers by counting, many at a time: those of the house, in pieces of any size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quant.philox import BLOCK_BITS, random_signs, random_words
from runtime.randomness import philox4x32

WORD = st.integers(0, 2**32 - 1)


@given(seed=st.integers(0, 2**64 - 1), stream=WORD, step=WORD, pair=WORD, first=st.integers(0, 2**32 - 8))
def test_blocks_are_those_of_one_counter_each(
    seed: int, stream: int, step: int, pair: int, first: int
) -> None:
    words = random_words(5, seed=seed, stream=stream, step=step, pair=pair, first_block=first)
    for number, row in enumerate(words.tolist()):
        key = (seed & 0xFFFFFFFF, seed >> 32)
        assert tuple(row) == philox4x32((first + number, stream, step, pair), key)


def test_signs_are_the_bits_of_the_words_also_over_many_pieces() -> None:
    count = (1 << 14) * BLOCK_BITS + 77
    signs = random_signs(count, seed=3, stream=1, step=2, pair=4)
    assert (signs.size, signs.dtype) == (count, np.int8)
    words = random_words(-(-count // BLOCK_BITS), seed=3, stream=1, step=2, pair=4).reshape(-1)
    for at in (0, 1, 31, 32, 127, 128, count - 78, count - 1):
        assert signs[at] == (1 if words[at // 32] >> np.uint32(at % 32) & np.uint32(1) else -1)
    assert abs(signs.astype(np.int64).sum()) < 6 * count**0.5
