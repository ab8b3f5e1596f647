"""Random numbers by counting: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").

A number depends on its key and counter alone, not on what was drawn before it. So a text can be drawn anew
from any position on, on any machine, and no state of a generator has to be saved with a stream.
"""

ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF

SEED_LIMIT = 1 << 64
"""Seeds are below it."""


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random words of 32 bits from a counter of four such words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & _MASK, (first >> 32) ^ c3 ^ k1, first & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def random_bits(*, seed: int, position: int, draw: int = 0, branch: int = 0) -> int:
    """64 random bits. `draw` numbers the draws at one position, `branch` the tellings of one passage."""
    counter = (position & _MASK, position >> 32 & _MASK, draw & _MASK, branch & _MASK)
    low, high, _, _ = philox4x32(counter, (seed & _MASK, seed >> 32 & _MASK))
    return high << 32 | low


def random_below(limit: int, *, seed: int, position: int, draw: int = 0, branch: int = 0) -> int:
    """A whole number from 0 up to below `limit`, each as likely as the others but for 2^-64 of the limit."""
    return random_bits(seed=seed, position=position, draw=draw, branch=branch) * limit >> 64
