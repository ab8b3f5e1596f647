"""Packing: every predicting token once, no row too full, few places unused, one plan for one seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.data.packing import Plan, pack

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=120)


def plan_of(
    lengths: list[int], *, row: int = 32, most: int = 32, seed: int = 0, window: int = 8192
) -> tuple[Plan, np.ndarray]:
    lengths_N = np.array(lengths, dtype=np.int32)
    return pack(lengths_N, row=row, max_documents=most, seed=seed, window=window), lengths_N


@given(LENGTHS, st.integers(1, 64), st.integers(1, 9), st.integers(0, 3), st.sampled_from([1, 7, 8192]))
def test_every_token_that_predicts_stands_in_one_place(
    lengths: list[int], row: int, most: int, seed: int, window: int
):
    plan, lengths_N = plan_of(lengths, row=row, most=most, seed=seed, window=window)
    ends = np.cumsum(lengths_N)
    places = np.concatenate(
        [np.arange(0), *(np.arange(s, s + n) for s, n in zip(plan.starts_P, plan.sizes_P, strict=True))]
    )
    predicting = np.setdiff1d(np.arange(ends[-1]), ends - 1)
    assert np.array_equal(np.sort(places), predicting)


@given(LENGTHS, st.integers(1, 64), st.integers(1, 9))
def test_rows_hold_what_they_can(lengths: list[int], row: int, most: int):
    plan, lengths_N = plan_of(lengths, row=row, most=most)
    starts = np.cumsum(lengths_N) - lengths_N
    assert plan.rows_R[0] == 0
    assert plan.rows_R[-1] == len(plan.sizes_P)
    for first, last in zip(plan.rows_R[:-1], plan.rows_R[1:], strict=True):
        assert 0 < last - first <= most
        assert plan.sizes_P[first:last].sum() <= row
        assert (plan.sizes_P[first:last] > 0).all()
    # A piece and the token that it predicts last lie in the piece's own document.
    assert (plan.starts_P >= starts[plan.documents_P]).all()
    assert (plan.starts_P + plan.sizes_P < (starts + lengths_N)[plan.documents_P]).all()


@given(LENGTHS)
def test_only_a_document_longer_than_a_row_is_cut(lengths: list[int]):
    plan, lengths_N = plan_of(lengths, row=32)
    pieces = np.bincount(plan.documents_P, minlength=len(lengths_N))
    assert np.array_equal(pieces, -(-(lengths_N - 1) // 32))


@given(LENGTHS)
def test_no_two_rows_would_have_fitted_into_one(lengths: list[int]):
    plan, _ = plan_of(lengths, row=64, most=1000)
    filled = sorted(plan.sizes_P[a:b].sum() for a, b in zip(plan.rows_R[:-1], plan.rows_R[1:], strict=True))
    assert len(filled) < 2 or filled[0] + filled[1] > 64


@pytest.mark.parametrize("row", [1024, 2048])
def test_documents_of_natural_lengths_leave_few_places_unused(row: int):
    draw = np.random.default_rng(5)
    lengths = np.clip(draw.lognormal(5.4, 0.8, size=20_000), 8, 6000).astype(np.int32)
    plan = pack(lengths, row=row, max_documents=row // 64, seed=0)
    assert plan.efficiency(row) > 0.98


@pytest.mark.parametrize("row", [1024, 2048])
def test_many_short_documents_among_long_ones_do_not_fill_rows_by_number(row: int):
    draw = np.random.default_rng(6)
    long = np.clip(draw.lognormal(5.4, 0.8, size=12_000), 8, 6000).astype(np.int32)
    lengths = draw.permutation(np.concatenate((long, draw.integers(15, 50, size=8_000, dtype=np.int32))))
    plan = pack(lengths, row=row, max_documents=row // 64, seed=0)
    assert plan.efficiency(row) > 0.98


def test_a_seed_gives_one_plan_and_another_seed_another():
    lengths = np.random.default_rng(1).integers(2, 200, size=500).tolist()
    first, again, other = (plan_of(lengths, row=256, seed=seed, window=64)[0] for seed in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.starts_P, other.starts_P)


def test_chosen_documents_alone_are_packed():
    lengths_N = np.array([5, 40, 9, 1, 12], dtype=np.int32)
    chosen_N = np.array([True, False, True, True, False])
    plan = pack(lengths_N, row=16, max_documents=8, seed=0, chosen_N=chosen_N)
    assert sorted(plan.documents_P.tolist()) == [0, 2]
    assert plan.sizes_P.sum() == 4 + 8
