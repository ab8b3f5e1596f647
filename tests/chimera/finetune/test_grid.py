"""Moves on a grid: taken back exactly, in any shape, and of the length that was asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.finetune.grid import GridTensor, on_grid
from chimera.finetune.noise import DirectionKey, Distribution, direction

DISTRIBUTIONS: tuple[Distribution, ...] = ("rademacher", "gaussian")


def held(
    rows: int = 3, columns: int = 300, group: int | None = 128, *, seed: int = 0, size: float = 0.02
) -> GridTensor:
    """Random weights on a grid."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    return on_grid(weight, name="weight", stream=1, group=group)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 400),
    group=st.sampled_from((None, 128, 64, 400)),
    size=st.sampled_from((1e-6, 0.02, 3.0, 1e4)),
    distribution=st.sampled_from(DISTRIBUTIONS),
    lengths=st.lists(st.floats(-1, 1), min_size=1, max_size=4),
    data=st.data(),
)
def test_moves_are_taken_back_exactly(
    rows: int,
    columns: int,
    group: int | None,
    size: float,
    distribution: Distribution,
    lengths: list[float],
    data: st.DataObject,
):
    tensor = held(rows, columns, group, size=size, seed=rows)
    before = tensor.weight_RC.clone()
    moves = [
        (length, DirectionKey(seed=3, step=step, distribution=distribution), times)
        for step, length in enumerate(lengths)
        for times in (1, -2, 1)
    ]
    for length, key, times in data.draw(st.permutations(moves)):
        tensor.move(length, key=key, times=times)
    assert torch.equal(tensor.weight_RC, before)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_move_is_a_share_of_what_the_weights_of_its_group_weigh(distribution: Distribution):
    tensor = held()
    before = tensor.weight_RC.clone()
    key = DirectionKey(seed=3, step=4, distribution=distribution)
    tensor.move(0.05, key=key)
    z_RC = direction(0, 9, stream=1, key=key).view(3, -1)[:, :300]
    sizes_RC = torch.cat(
        [part.abs().mean(dim=1, keepdim=True).expand_as(part) for part in before.split(128, 1)], 1
    )
    expected = before + 0.05 * z_RC * sizes_RC
    torch.testing.assert_close(tensor.weight_RC, expected, rtol=0, atol=1e-6 * float(before.abs().max()))


def test_what_is_on_the_grid_stays_as_it_is():
    first = held()
    again = on_grid(first.weight_RC.clone(), name="weight", stream=1, group=128)
    assert torch.equal(again.weight_RC, first.weight_RC)
    assert torch.equal(again.scale_RG, first.scale_RG)


def test_weights_go_on_the_grid_by_a_millionth_of_the_largest():
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    original = weight.clone()
    on_grid(weight, name="weight", stream=0, group=128)
    assert float((weight - original).abs().max() / original.abs().max()) < 1e-6


def test_a_bias_of_zeros_can_be_learnt():
    tensor = on_grid(torch.zeros(6), name="bias", stream=0, group=None)
    tensor.move(0.5, key=DirectionKey(seed=0, step=0), stay=True)
    assert torch.equal(tensor.weight_RC.abs(), torch.full((1, 6), float(tensor.weight_RC.abs()[0, 0])))
    assert float(tensor.weight_RC.abs().max()) > 0


def test_weights_are_kept_where_moves_are_exact():
    tensor = held(1, 128)
    largest = float(tensor.weight_RC.abs().max())
    key = DirectionKey(seed=0, step=0)
    for _ in range(200):
        tensor.move(0.5, key=key, stay=True)
    assert largest * 4 <= float(tensor.weight_RC.abs().max()) <= largest * 8
    before = tensor.weight_RC.clone()
    for times in (1, -2, 1):
        tensor.move(1.0, key=key, times=times)
    assert torch.equal(tensor.weight_RC, before)


@settings(max_examples=20, deadline=None)
@given(columns=st.integers(1, 300), group=st.sampled_from((None, 128)))
def test_small_weights_can_be_left_out(columns: int, group: int | None):
    tensor = held(3, columns, group)
    before = tensor.weight_RC.clone()
    tensor.skip_small(0.5)
    key = DirectionKey(seed=1, step=1)
    tensor.move(0.1, key=key)
    means = tensor.spread(tensor.mean_by_group(before.abs()))
    assert torch.equal(tensor.weight_RC == before, before.abs() <= means * 0.5)
    tensor.move(0.1, key=key, times=-1)
    assert torch.equal(tensor.weight_RC, before)


def test_decay_takes_a_share_away_and_stays_on_the_grid():
    tensor = held()
    before = tensor.weight_RC.clone()
    tensor.decay(0.1)
    torch.testing.assert_close(tensor.weight_RC, before * 0.9, rtol=0, atol=1e-7)
    units = tensor.weight_RC / tensor.spread(tensor.unit_RG)
    assert torch.equal(units, units.round())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mean_of_many_slopes_is_the_gradient(distribution: Distribution):
    """On a quadratic of 64 weights, 512 directions: the cosine would be 1 / √(1 + 64 / 512) = 0.94."""
    generator = torch.Generator().manual_seed(2)
    tensor = on_grid(torch.randn(64, generator=generator), name="w", stream=0, group=None)
    root = torch.randn(64, 64, generator=generator, dtype=torch.float64) / 8
    matrix, target = root @ root.T, torch.randn(64, generator=generator, dtype=torch.float64)

    def loss() -> float:
        w = tensor.weight_RC[0].double()
        return float(0.5 * w @ matrix @ w - target @ w)

    gradient = matrix @ tensor.weight_RC[0].double() - target
    mean = torch.zeros(64, dtype=torch.float64)
    for step in range(512):
        key = DirectionKey(seed=7, step=step, distribution=distribution)
        tensor.move(0.05, key=key)
        above = loss()
        tensor.move(0.05, key=key, times=-2)
        slope = (above - loss()) / 0.1
        tensor.move(0.05, key=key)
        mean += slope * direction(0, 1, stream=0, key=key)[0, :64].double() / 512
    assert float(torch.cosine_similarity(mean, gradient, dim=0)) > 0.9
    # A length is a share of the scale, so that the slope is the scale times the gradient.
    assert float(mean.norm() / gradient.norm() / tensor.scale_RG) == pytest.approx(1, abs=0.2)
