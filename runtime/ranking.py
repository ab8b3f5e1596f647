"""Ranks of scores: by falling score, the lower place first among equals."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

_SIZE_BITS = np.int32(0x7FFFFFFF)
_PLACE_BITS = 32


def best_places(scores: Floats, count: int) -> Integers:
    """The places of the best, in rising order; all where there are fewer. There must be no NaN."""
    if count >= scores.size:
        return np.arange(scores.size)
    lowest = np.partition(scores, scores.size - count)[scores.size - count]
    places = np.flatnonzero(scores >= lowest)
    if places.size == count:
        return places
    found = scores[places]
    better, equal = places[found > lowest], places[found == lowest]
    return np.sort(np.concatenate((better, equal[: count - better.size])))


def ranked(scores: Floats) -> Integers:
    """The places of all scores by rank."""
    # Adding zero makes a minus zero the zero that it equals. Then bits of floats are ordered as integers once
    # those of negative ones are turned, and a place below the key decides among equals.
    bits = (scores + np.float32(0)).view(np.int32)
    rising = bits ^ ((bits >> np.int32(31)) & _SIZE_BITS)
    keys = (~rising).astype(np.int64) << _PLACE_BITS | np.arange(scores.size)
    keys.sort()
    return keys & ((1 << _PLACE_BITS) - 1)


def places_in(ids: Integers, wanted: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Where those of `wanted` that are in `ids` stand there, and which they are. Both rise."""
    places = np.searchsorted(ids, wanted)
    there = places < ids.size
    there[there] = ids[places[there]] == wanted[there]
    return places[there], there
