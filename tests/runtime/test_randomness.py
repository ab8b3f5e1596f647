"""Random numbers by counting: the published vectors, and what a text relies on."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from runtime.randomness import SEED_LIMIT, philox4x32, random_below, random_bits

# Known answers that the authors publish with Random123, for philox4x32 with 10 rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
U64 = st.integers(0, SEED_LIMIT - 1)


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def test_the_published_answers():
    for counter, key, answer in KNOWN:
        c0, c1, c2, c3 = words(counter)
        k0, k1 = words(key)
        assert philox4x32((c0, c1, c2, c3), (k0, k1)) == words(answer)


def test_every_part_of_the_key_counts():
    names = ("seed", "position", "draw", "branch")
    drawn = {
        random_bits(**dict(zip(names, numbers, strict=True)))
        for numbers in itertools.product((0, 1, 2**31), repeat=4)
    }
    assert len(drawn) == 3**4
    assert random_bits(seed=2**63, position=0) != random_bits(seed=0, position=0)
    assert random_bits(seed=0, position=2**40) != random_bits(seed=0, position=0)


@given(seed=U64, position=st.integers(0, 2**63), limit=st.integers(1, 2**62))
def test_a_number_below_a_limit_is_below_it(seed: int, position: int, limit: int):
    assert 0 <= random_below(limit, seed=seed, position=position) < limit


def test_all_numbers_below_a_limit_come_alike():
    counts = [0] * 7
    for position in range(7000):
        counts[random_below(7, seed=5, position=position)] += 1
    # Six degrees of freedom: chi-square above 22.5 has a chance of one in a thousand, and the seed is fixed.
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 22.5
