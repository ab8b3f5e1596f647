"""The prefill schedule: what a prompt foretells, in the order in which it is worth reading."""

import numpy as np

from chronos_moe.prefill import prefill_wishes

ORDER = (0, 1, 0, 1, 2)
"""A loop of two layers, twice, and one behind it."""
USAGE = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.3, 0.6, 0.1]], dtype=np.float32)
SCORES = np.array([[0.9, 0.3, 0.1], [0.14, 0.02, 0.1], [0.2, 0.3, 0.8]], dtype=np.float32)


def test_the_best_of_each_layer_come_first_as_a_token_meets_them():
    found = prefill_wishes(SCORES, usage_LE=USAGE, order=ORDER, room=100)
    assert [(wish.layer, wish.expert) for wish in found] == [
        (0, 0),
        (1, 0),  # nothing is known of this layer, so habit speaks
        (2, 2),
        (0, 1),
        (1, 1),
        (2, 1),
        (1, 2),
    ]
    assert [wish.passes_ahead for wish in found[:3]] == [1, 2, 5]


def test_there_are_no_more_than_there_is_room_for():
    whole = prefill_wishes(SCORES, usage_LE=USAGE, order=ORDER, room=100)
    for room in range(8):
        assert prefill_wishes(SCORES, usage_LE=USAGE, order=ORDER, room=room) == whole[:room]
    assert prefill_wishes(SCORES, usage_LE=USAGE, order=ORDER, room=-1) == []
