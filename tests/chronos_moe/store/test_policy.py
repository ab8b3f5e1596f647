"""Policies and predictors: what they are said to choose."""

from typing import get_args

import numpy as np
import pytest

from chronos_moe.store.policy import POLICIES, PolicyName, Residents
from chronos_moe.store.predictors import (
    PREDICTORS,
    Decided,
    Foresight,
    Frequency,
    Neighbours,
    Nothing,
    PredictorName,
    SameAsLast,
    Seen,
)


def residents(*, last_visits: list[int], visits: list[int], clock: int, place: int = 0) -> Residents:
    """Two layers of three experts, none of which has just come."""
    return Residents(
        order=(0, 1),
        num_experts=3,
        last_visits=np.array(last_visits),
        visits=np.array(visits),
        loaded=np.zeros(6, dtype=np.int64),
        clock=clock,
        place=place,
    )


def test_the_tables_hold_every_name():
    assert tuple(POLICIES) == get_args(PolicyName)
    assert tuple(PREDICTORS) == get_args(PredictorName)


def test_lru_lets_go_what_was_visited_longest_ago():
    worth = POLICIES["lru"](residents(last_visits=[9, 3, 7, 8, 2, 6], visits=[1] * 6, clock=9))
    assert np.argsort(worth).tolist() == [4, 1, 5, 2, 3, 0]


def test_lfu_lets_go_what_was_visited_least_and_forgets_old_visits():
    found = residents(last_visits=[0] * 6, visits=[5, 3, 4, 9, 1, 2], clock=10)
    assert np.argsort(POLICIES["lfu"](found)).tolist() == [4, 5, 1, 2, 0, 3]
    found.visits = found.visits + np.array([0, 4, 0, 0, 0, 0])
    found.clock += 64 * 5  # five half-lives
    assert int(np.argmax(POLICIES["lfu"](found))) == 1


def test_least_stale_lets_go_the_layer_that_comes_latest_of_what_the_last_token_left_alone():
    # The pass of layer 1 has begun: layer 0 is next, so layer 1 comes latest.
    found = residents(last_visits=[9, 1, 2, 10, 3, 4], visits=[1] * 6, clock=10, place=1)
    worth = POLICIES["least-stale"](found)
    assert set(np.argsort(worth)[:2].tolist()) == {4, 5}
    assert set(np.argsort(worth)[2:4].tolist()) == {1, 2}
    assert np.argsort(worth)[4:].tolist() == [3, 0]


def seen(*, place: int, last_visits: list[list[int]], foresight: np.ndarray | None = None) -> Seen:
    visits = np.array(last_visits)
    return Seen(
        clock=int(visits.max()),
        place=place,
        order=(0, 1, 1, 2),
        num_chosen=2,
        last_visits=visits,
        visits=np.minimum(visits, 3),
        foresight=None if foresight is None else foresight.astype(np.float32),
    )


VISITS = [[5, 5, 1], [7, 2, 7], [4, 4, 0]]


def test_how_soon_a_layer_comes():
    now = seen(place=1, last_visits=VISITS)
    assert [now.passes_until(layer) for layer in range(3)] == [None, 1, 2]
    assert [now.passes_until(layer, tokens_ahead=1) for layer in range(3)] == [3, 4, 6]


def test_the_same_as_last_are_wished_for_in_the_order_of_layers():
    wishes = SameAsLast().predict(seen(place=2, last_visits=VISITS), room=9)
    assert [(wish.layer, wish.expert, wish.passes_ahead, wish.horizon) for wish in wishes] == [
        (2, 0, 1, 0), (2, 1, 1, 0), (0, 0, 2, 1), (0, 1, 2, 1), (1, 0, 3, 1), (1, 2, 3, 1),
    ]  # fmt: skip
    assert len(SameAsLast().predict(seen(place=2, last_visits=VISITS), room=3)) == 3


def test_the_most_frequent_are_shared_by_layers():
    wishes = Frequency().predict(seen(place=3, last_visits=VISITS), room=3)
    assert [(wish.layer, wish.expert) for wish in wishes] == [(0, 0), (1, 0), (2, 0)]


def test_neighbours_of_what_was_visited_are_wished_for():
    clusters = [[(0, 0), (1, 0), (2, 1)], [(0, 1), (1, 2), (2, 0)], [(0, 2), (1, 1), (2, 2)]]
    wishes = Neighbours(clusters).predict(seen(place=2, last_visits=VISITS), room=9)
    assert [(wish.layer, wish.expert, wish.passes_ahead, wish.horizon) for wish in wishes] == [
        (2, 0, 1, 0), (2, 1, 1, 0), (0, 0, 2, 1), (0, 1, 2, 1),
    ]  # fmt: skip
    both = [[(0, 0), (1, 0), (1, 2), (2, 1)], [(0, 1), (0, 2), (1, 1), (2, 0), (2, 2)]]
    wishes = Neighbours(both).predict(seen(place=1, last_visits=VISITS), room=2)
    assert [(wish.layer, wish.expert) for wish in wishes] == [(2, 1), (0, 0)]


def test_foresight_takes_the_best_scores_of_what_is_ahead():
    scores = np.zeros((2, 3, 3))
    scores[0, 2] = [0.1, 0.5, 0.4]
    scores[1, 0] = [0.9, 0.0, 0.8]
    wishes = Foresight().predict(seen(place=2, last_visits=VISITS, foresight=scores), room=4)
    assert [(wish.layer, wish.expert, wish.passes_ahead, wish.horizon) for wish in wishes] == [
        (2, 1, 1, 0), (2, 2, 1, 0), (0, 0, 2, 1), (0, 2, 2, 1),
    ]  # fmt: skip


def test_what_is_decided_is_wished_for_alone_and_once():
    scores = np.full((1, 3, 3), 0.5)
    scores[0, 1] = [np.inf, -np.inf, np.inf]
    predictor = Decided()
    first = predictor.predict(seen(place=0, last_visits=VISITS, foresight=scores), room=9)
    assert [(wish.layer, wish.expert, wish.passes_ahead) for wish in first] == [(1, 0, 1), (1, 2, 1)]
    # The same again is of the round before; a row that has changed is news.
    assert list(predictor.predict(seen(place=1, last_visits=VISITS, foresight=scores), room=9)) == []
    scores = scores.copy()
    scores[0, 2] = [-np.inf, np.inf, -np.inf]
    later = predictor.predict(seen(place=1, last_visits=VISITS, foresight=scores), room=9)
    assert [(wish.layer, wish.expert, wish.passes_ahead) for wish in later] == [(2, 1, 2)]


@pytest.mark.parametrize("predictor", [Nothing(), Foresight()])
def test_nothing_is_wished_for_where_nothing_is_known(predictor: Nothing | Foresight):
    assert list(predictor.predict(seen(place=0, last_visits=VISITS), room=9)) == []
