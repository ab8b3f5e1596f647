"""The loop's injection, and how rounds are drawn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.looping import INITIAL_DECAY, LoopInjection, draw_rounds, groups_of_round, rounds_with_gradient

WIDTH = 8


def injection(zoh_input: str = "exact", **kind: str) -> LoopInjection:
    return LoopInjection(width=WIDTH, zoh_input=zoh_input, **kind).double()  # type: ignore[arg-type]


def test_starts_half_way_between_forgetting_and_holding():
    decay, gain = injection().decay_and_gain()
    torch.testing.assert_close(decay, torch.full((WIDTH,), INITIAL_DECAY, dtype=torch.float64))
    torch.testing.assert_close(gain, 1 - decay)
    _, euler = injection("euler").decay_and_gain()
    torch.testing.assert_close(euler, torch.full((WIDTH,), -math.log(INITIAL_DECAY), dtype=torch.float64))


@settings(max_examples=50, deadline=None)
@given(a_log=st.floats(-8, 8), dt_bias=st.floats(-8, 8))
def test_the_loop_is_stable_whatever_is_learnt(a_log: float, dt_bias: float):
    loop = injection()
    torch.nn.init.constant_(loop.A_log, a_log)
    torch.nn.init.constant_(loop.dt_bias, dt_bias)
    decay, gain = loop.decay_and_gain()
    assert (decay >= 0).all()
    assert (decay < 1).all()
    assert torch.isfinite(gain).all()
    assert (gain > 0).all()


def test_the_exact_hold_is_the_limit_of_fine_euler_steps():
    loop = injection()
    torch.nn.init.constant_(loop.A_log, 0.3)
    torch.nn.init.constant_(loop.dt_bias, -0.2)
    decay, gain = loop.decay_and_gain()
    rate, duration, steps = math.exp(0.3), math.log1p(math.exp(-0.2)), 200_000
    h, fed = 0.7, 1.3
    for _ in range(steps):
        h += duration / steps * (fed - rate * h)
    assert decay[0].item() * 0.7 + gain[0].item() * 1.3 == pytest.approx(h, rel=1e-5)


def test_a_loop_without_layers_settles_where_its_input_and_decay_balance():
    loop = injection()
    x = torch.randn(1, 3, WIDTH, dtype=torch.float64)
    fed = loop.enter(x)
    h = torch.zeros_like(fed)
    for _ in range(200):
        h = loop.mix(h, fed)
    torch.testing.assert_close(h, loop.prelude_norm(x).double())


def test_dense_matrices_start_as_the_identity():
    dense, diagonal = injection(injection="dense"), injection()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    assert dense.B.shape == (WIDTH, WIDTH)
    torch.testing.assert_close(dense.enter(x), diagonal.enter(x))
    torch.testing.assert_close(dense.leave(x), x)


def test_rounds_follow_the_poisson_law_held_within_the_range():
    generator = torch.Generator().manual_seed(5)
    drawn = [n for _ in range(500) for n in draw_rounds(8, mean=2, least=1, most=4, generator=generator)]
    weights = [math.exp(-2) * 2**n / math.factorial(n) for n in range(4)]
    law = {1: weights[0] + weights[1], 2: weights[2], 3: weights[3], 4: 1 - sum(weights)}
    for rounds, share in law.items():
        assert drawn.count(rounds) / len(drawn) == pytest.approx(share, abs=0.015)


def test_a_repeated_seed_repeats_the_rounds_and_every_row_gets_every_depth():
    draws = [
        draw_rounds(4, mean=2, least=1, most=4, generator=torch.Generator().manual_seed(s))
        for s in range(200)
    ]
    assert draws[7] == draw_rounds(4, mean=2, least=1, most=4, generator=torch.Generator().manual_seed(7))
    assert all({row[place] for row in draws} == {1, 2, 3, 4} for place in range(4))


@given(
    rounds=st.lists(st.integers(1, 6), min_size=1, max_size=8), truncation=st.sampled_from(["half", "none"])
)
def test_each_row_takes_its_rounds_once_and_the_last_ones_with_gradient(rounds: list[int], truncation: str):
    falling = sorted(rounds, reverse=True)
    taken = [0] * len(falling)
    learnt = [0] * len(falling)
    for done in range(falling[0]):
        rows_of_round: list[int] = []
        for first, after, gradient in groups_of_round(falling, done, truncation):  # type: ignore[arg-type]
            for row in range(first, after):
                rows_of_round.append(row)
                taken[row] += 1
                # Once a row has begun to learn it learns to its end.
                assert gradient or learnt[row] == 0
                learnt[row] += gradient
        assert rows_of_round == sorted(set(rows_of_round))
    assert taken == falling
    assert learnt == [rounds_with_gradient(n, truncation) for n in falling]  # type: ignore[arg-type]
