"""Directions: the words of `quant.philox`, whole or in pieces, and values as they are spread."""

import hashlib

import pytest
import torch

from chimera.finetune.noise import SPAN, DirectionKey, Distribution, direction
from quant.philox import random_signs


def test_signs_are_those_of_philox():
    key = DirectionKey(seed=2**63 + 5, step=7, pair=3)
    expected = random_signs(40 * SPAN, seed=key.seed, stream=11, step=7, pair=3)
    found = direction(0, 40, stream=11, key=key)
    torch.testing.assert_close(found.flatten(), torch.from_numpy(expected).float(), rtol=0, atol=0)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_a_piece_is_a_piece_of_the_whole(distribution: Distribution):
    key = DirectionKey(seed=1, step=2, distribution=distribution)
    whole = direction(0, 50, stream=3, key=key)
    pieces = [direction(first, 10, stream=3, key=key) for first in range(0, 50, 10)]
    assert torch.equal(torch.cat(pieces), whole)


def test_normal_values_are_spread_as_they_should_be():
    key = DirectionKey(seed=5, step=0, distribution="gaussian")
    values = direction(0, 4096, stream=0, key=key).double().flatten()
    assert abs(values.mean()) < 0.005
    assert abs(values.var() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    assert torch.equal(values * 4096, (values * 4096).round())


def test_normal_values_have_the_same_bits_everywhere():
    key = DirectionKey(seed=5, step=1, distribution="gaussian")
    values = (direction(0, 512, stream=2, key=key) * 4096).to(torch.int32).numpy().astype("<i4")
    assert (
        hashlib.sha256(values.tobytes()).hexdigest()
        == "7e0a9587c83b82502406c7805dd391664804f537237af44a5142fd250e778cde"
    )


@pytest.mark.parametrize(
    "other",
    [DirectionKey(seed=9, step=1), DirectionKey(seed=1, step=9), DirectionKey(seed=1, step=1, pair=9)],
)
def test_every_part_of_the_key_counts(other: DirectionKey):
    one = direction(0, 8, stream=0, key=DirectionKey(seed=1, step=1))
    two = direction(0, 8, stream=0, key=other)
    assert 0.3 < (one == two).float().mean() < 0.7
