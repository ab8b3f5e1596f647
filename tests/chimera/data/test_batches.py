"""Batches: a function of their number alone, with borders, labels and bytes where the documents have them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.data.batches import IGNORED, Batches, batches_of
from chimera.mixers.packing import Packing
from chimera.model import build
from configs.errors import UsageError
from configs.load import preset
from quant.qat.linear import set_quant_mix
from tests.chimera.data.samples import made_shards

LENGTHS = st.lists(st.integers(2, 50), min_size=3, max_size=40)


def passed(batches: Batches, *, first: int = 0, count: int | None = None) -> list[Any]:
    """Some batches in order, those of one pass without more."""
    return [batches.batch(number) for number in range(first, first + (count or batches.batches_per_epoch))]


def pairs(batches: list[Any]) -> list[tuple[int, int]]:
    """Each labelled token with its label."""
    found: list[tuple[int, int]] = []
    for batch in batches:
        there = batch.labels_BT != IGNORED
        found += zip(batch.ids_BT[there].tolist(), batch.labels_BT[there].tolist(), strict=True)
    return found


@given(LENGTHS, st.integers(0, 2))
def test_a_pass_shows_every_token_with_the_one_that_follows(lengths: list[int], seed: int):
    shards = made_shards(lengths)
    batches = batches_of(shards, rows=1, seq_len=24, seed=seed)
    ends = set(np.cumsum(lengths).tolist())  # tokens count from 1, so these are the last of documents
    expected = [(token, token + 1) for token in range(1, sum(lengths) + 1) if token not in ends]
    assert sorted(pairs(passed(batches))) == expected


@given(LENGTHS)
def test_a_document_begins_with_a_reset_and_unused_places_are_one_of_their_own(lengths: list[int]):
    shards = made_shards(lengths)
    batches = batches_of(shards, rows=2, seq_len=24)
    for batch in passed(batches):
        assert batch.resets_BT[:, 0].all()
        assert batch.resets_BT.sum(axis=1).max() <= batches.max_documents
        # Within a document tokens count on by one; what does not follow begins anew.
        follows = batch.ids_BT[:, 1:] == batch.ids_BT[:, :-1] + 1
        used = batch.labels_BT[:, 1:] != IGNORED
        assert (follows | batch.resets_BT[:, 1:] | ~used).all()
        starts = batch.ids_BT[batch.resets_BT & (batch.labels_BT != IGNORED)] - 1
        firsts = np.cumsum(lengths) - lengths
        assert all(
            int(start - firsts[np.searchsorted(firsts, start, "right") - 1]) % 24 == 0 for start in starts
        )
        assert (batch.ids_BT[batch.labels_BT == IGNORED] == 0).all()


def test_bytes_labels_and_sources_are_counted():
    shards = made_shards([9, 4, 17, 6, 3])
    batch = batches_of(shards, rows=2, seq_len=24).batch(0)
    there = batch.labels_BT != IGNORED
    assert batch.num_labels == there.sum()
    assert batch.num_bytes == 3 * batch.num_labels
    document = np.searchsorted(np.cumsum(shards.lengths_N), batch.ids_BT[there] - 1, side="right")
    assert np.array_equal(batch.sources_BT[there], document % 2)


def test_any_batch_can_be_asked_for_in_any_order_and_anew():
    shards = made_shards(np.random.default_rng(2).integers(2, 60, size=300).tolist())
    batches = batches_of(shards, rows=4, seq_len=32, seed=3)
    numbers = range(3 * batches.batches_per_epoch)
    inorder = {number: batches.batch(number) for number in numbers}
    again = batches_of(shards, rows=4, seq_len=32, seed=3)
    for number in reversed(numbers):
        for one, other in zip(inorder[number], again.batch(number), strict=True):
            assert np.array_equal(one, other)


def test_passes_differ_in_order_and_seeds_too():
    shards = made_shards([5] * 200)
    one, other = (batches_of(shards, rows=1, seq_len=4, seed=seed) for seed in (0, 1))
    count = one.batches_per_epoch
    first, second = pairs(passed(one)), pairs(passed(one, first=count))
    assert sorted(first) == sorted(second)
    assert first != second
    assert pairs(passed(other)) != first


@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_share_a_batch_by_rows(world: int):
    shards = made_shards([7, 30, 12, 5, 22, 9, 41, 3, 18, 26])
    batches = batches_of(shards, rows=4, seq_len=16, seed=1)
    for number in range(2 * batches.batches_per_epoch):
        whole = batches.batch(number)
        parts = [batches.shard(rank, world).batch(number) for rank in range(world)]
        for name in ("ids_BT", "labels_BT", "resets_BT", "sources_BT"):
            assert np.array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))
        assert sum(part.num_bytes for part in parts) == whole.num_bytes


def test_carried_rows_go_on_where_they_ended():
    shards = made_shards([90, 33, 120, 15, 64, 7, 48])
    carried = batches_of(shards, rows=2, seq_len=16, length=64, seed=5)
    whole = batches_of(shards, rows=2, seq_len=64, seed=5, max_documents=carried.max_documents - 1)
    assert carried.slices == 4
    for turn in range(3):
        parts = [carried.batch(4 * turn + part) for part in range(4)]
        assert [part.continues for part in parts] == [False, True, True, True]
        row = whole.batch(turn)
        for name in ("ids_BT", "labels_BT", "resets_BT"):
            joined = np.concatenate([getattr(part, name) for part in parts], axis=1)
            assert np.array_equal(joined, getattr(row, name))
    # A document that runs over a cut is not begun anew there.
    assert not all(carried.batch(number).resets_BT[:, 0].all() for number in range(4))


def test_answers_alone_have_labels_and_texts_without_any_are_left_out():
    answers = [0] * 6 + [0, 0, 0, 1, 1, 1, 0] + [0] * 5
    shards = made_shards([6, 7, 5], answers=answers)
    batches = batches_of(shards, rows=1, seq_len=16, answers_only=True)
    assert batches.batches_per_epoch == 1
    # Tokens 10, 11 and 12 are the answer; each is foreseen from the one before it.
    assert pairs(passed(batches)) == [(9, 10), (10, 11), (11, 12)]
    assert batches.batch(0).num_bytes == 9


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rows": 0}, "1 or more"),
        ({"seq_len": 0}, "1 or more"),
        ({"length": 40}, "no whole number"),
        ({"answers_only": True}, "no answers"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], words: str):
    with pytest.raises(UsageError, match=words):
        batches_of(made_shards([5, 6]), **{"rows": 2, "seq_len": 16, **wrong})


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0), (0, 3)])
def test_workers_that_cannot_be_are_refused(rank: int, world: int):
    with pytest.raises(UsageError):
        batches_of(made_shards([5, 6]), rows=2, seq_len=16).shard(rank, world)


def test_no_batch_before_the_first():
    with pytest.raises(UsageError, match="from 0"):
        batches_of(made_shards([5, 6]), rows=2, seq_len=16).batch(-1)


@torch.no_grad()
def test_the_loss_of_packed_rows_is_that_of_the_documents_apart():
    """Through every kind of layer: what a batch packs together must not know of each other."""
    torch.manual_seed(3)
    model = build(preset("micro")).eval()
    set_quant_mix(model, 0.0)  # rounding to int8 would hide what is compared
    lengths = [17, 2, 40, 13, 29, 5, 66]
    shards = made_shards(lengths)
    batches = batches_of(shards, rows=2, seq_len=64)
    packed, labels = 0.0, 0
    for number in range(batches.batches_per_epoch):
        batch = batches.batch(number)
        if number * 2 + 2 > batches.plan.num_rows:  # the last batch is filled up from the next pass
            batch = batch._replace(labels_BT=np.where([[True], [False]], batch.labels_BT, IGNORED))
        ids, labels_BT, resets = (torch.from_numpy(array) for array in batch[:3])
        hidden = model(ids, packing=Packing(resets, batches.max_documents)).hidden_BTD
        count = int((labels_BT != IGNORED).sum())
        packed += model.loss(hidden, labels_BT).item() * count
        labels += count
    apart = 0.0
    for start, length in zip(shards.starts_N, lengths, strict=True):
        tokens = shards.tokens[start : start + length].astype(np.int64)
        for first in range(0, length - 1, 64):  # the piece of a document longer than a row
            ids = torch.from_numpy(tokens[first : first + 65])[None]
            hidden = model(ids[:, :-1]).hidden_BTD
            apart += model.loss(hidden, ids[:, 1:]).item() * (ids.shape[1] - 1)
    assert labels == sum(lengths) - len(lengths)
    assert packed / labels == pytest.approx(apart / labels, rel=1e-5)
