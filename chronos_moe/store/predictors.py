"""Who says which experts will be needed: the protocol, and the plain predictors that others are held against.

A *pass* is one visit of one layer with experts by the tokens of a call. `Seen.order` is the passes of a call
in the order in which they come: layers by their row in all tables here (row 0 is the first layer that has
experts), one inside the loop once for each round that calls take now. `Seen.clock` counts passes since the
engine was opened.

What a predictor looks at is memory of the running program:

- `last_visits` and `visits` [L, E] are written by compiled code in each pass, before its experts are waited
  for.
- `foresight` [K + 1, L, E] is a buffer of the engine's (`Workspace.array(FORESIGHT, …)`), which an operation
  of the program fills with scores, the larger the surer: row 0 for the layers ahead in this token, row k for
  the k-th token after it. Where a model has no such operation there is None.

All of it is copied at one moment before `predict` is called.

`predict` is called by a thread of its own, never by those that compute: once behind each pass, or less often
when passes come faster than it returns. So a predictor that needs the foresight alone looks at `Seen.place`,
the pass that has just begun, and gives nothing in other places. It gives wishes in the order of their worth;
`room` is how many slots there are for experts that nobody uses now, so more wishes than that are of no use.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]
Clusters: TypeAlias = Sequence[Sequence[tuple[int, int]]]
"""Of pairs: the row of a layer, and the number of an expert in it."""

FORESIGHT: Final = "experts.foresight"
"""The name of the engine's buffer of foresight, float32 [K + 1, layers with experts, experts]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """What is known when a pass has begun."""

    clock: int
    """Passes so far."""
    place: int
    """The pass that has begun, in `order`."""
    order: tuple[int, ...]
    """The passes of a call: the row of each one's layer."""
    num_chosen: int
    """Experts that a token visits in a layer."""
    last_visits: Integers
    """The clock of each expert's last visit [L, E], 0 before its first."""
    visits: Integers
    """How many passes have visited each expert [L, E]."""
    foresight: Floats | None
    """Scores [K + 1, L, E] of what will be visited."""

    def passes_until(self, layer: int, *, tokens_ahead: int = 0) -> int | None:
        """How many passes on a layer comes next, or in a later token; None where it came already or never."""
        if layer not in self.order:
            return None
        if tokens_ahead == 0:
            later = self.order[self.place + 1 :]
            return later.index(layer) + 1 if layer in later else None
        return tokens_ahead * len(self.order) - self.place + self.order.index(layer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """An expert that will be needed."""

    layer: int
    """The row of its layer."""
    expert: int
    passes_ahead: int
    """How soon."""
    horizon: int = 0
    """Tokens ahead, by which the meter tells how often such wishes come true."""


class Predictor(Protocol):
    """Says what to read before it is needed."""

    def predict(self, seen: Seen, *, room: int) -> Sequence[Wish]:
        """What to read now, the most worthy first."""
        ...


class Nothing:
    """Reads nothing ahead: what is needed is waited for."""

    def predict(self, seen: Seen, *, room: int) -> Sequence[Wish]:
        """No wish."""
        return ()


class SameAsLast:
    """Each layer will visit the experts that it visited last."""

    def predict(self, seen: Seen, *, room: int) -> Sequence[Wish]:
        """Those of the layers that come next, the next first."""
        return [
            Wish(layer=layer, expert=int(expert), passes_ahead=ahead, horizon=horizon)
            for layer, ahead, horizon in _coming(seen)
            for expert in np.flatnonzero(_visited_last(seen.last_visits[layer]))
        ][: max(0, room)]


class Frequency:
    """Each layer will visit the experts that it visited most often."""

    def predict(self, seen: Seen, *, room: int) -> Sequence[Wish]:
        """As many as there is room for, shared alike by all layers."""
        each = max(1, room // max(1, len(seen.visits)))
        found: list[Wish] = []
        for layer, ahead, horizon in _coming(seen):
            visits = seen.visits[layer]
            best = np.argsort(-visits, kind="stable")[:each]
            found += [
                Wish(layer=layer, expert=int(expert), passes_ahead=ahead, horizon=horizon)
                for expert in best
                if visits[expert]
            ]
        return found[: max(0, room)]


class Neighbours:
    """Whoever lies in a cluster with what a pass has just visited: such experts fired together before."""

    def __init__(self, clusters: Clusters) -> None:
        """`clusters` are of pairs: the row of a layer and the number of an expert in it."""
        self._members = {one: cluster for cluster in clusters for one in cluster}

    def predict(self, seen: Seen, *, room: int) -> Sequence[Wish]:
        """Neighbours in the layers to come, the next first, and those of more visited ones before others."""
        here = seen.order[seen.place]
        votes = Counter(
            other
            for expert in np.flatnonzero(_visited_last(seen.last_visits[here])).tolist()
            for other in self._members[here, expert]
            if other[0] != here
        )
        coming = {layer: (ahead, horizon) for layer, ahead, horizon in _coming(seen)}
        found = sorted((coming[layer], -count, layer, expert) for (layer, expert), count in votes.items())
        return [
            Wish(layer=layer, expert=expert, passes_ahead=ahead, horizon=horizon)
            for (ahead, horizon), _, layer, expert in found[: max(0, room)]
        ]


class Foresight:
    """The experts with the best scores in the engine's buffer of foresight, for the layers that come next.

    A score of infinity is a decision and no guess: all of those are wished for, and no other of their layer.
    """

    def __init__(self, *, guesses: bool = True) -> None:
        self._guesses = guesses
        self._last: Floats | None = None

    def predict(self, seen: Seen, *, room: int) -> Sequence[Wish]:
        """For each layer ahead in this token its best experts, then those of later tokens, if it is news."""
        if seen.foresight is None:
            return ()
        last = self._last
        # What is as it was has been wished for, or is of the round before.
        is_news = (seen.foresight != (np.nan if last is None else last)).any(axis=2)
        self._last = seen.foresight
        decided: dict[tuple[int, int], list[int]] = {}
        for horizon, layer, expert in np.argwhere(seen.foresight == np.inf).tolist():
            decided.setdefault((horizon, layer), []).append(expert)
        found: list[Wish] = []
        for horizon, layer in np.argwhere(is_news).tolist():
            ahead = seen.passes_until(layer, tokens_ahead=horizon)
            experts = decided.get((horizon, layer))
            if experts is None and self._guesses:
                experts = _best(seen.foresight[horizon, layer], seen.num_chosen)
            if ahead is not None and experts is not None:
                found += [
                    Wish(layer=layer, expert=expert, passes_ahead=ahead, horizon=horizon)
                    for expert in experts
                ]
        found.sort(key=lambda wish: wish.passes_ahead)
        return found[: max(0, room)]


class Decided(Foresight):
    """What is decided ahead, and no guess."""

    def __init__(self) -> None:
        super().__init__(guesses=False)


PredictorName = Literal["none", "same", "frequency", "neighbours", "foresight", "decided"]
PREDICTORS: Final[Mapping[PredictorName, Callable[[Clusters], Predictor]]] = {
    "none": lambda _: Nothing(),
    "same": lambda _: SameAsLast(),
    "frequency": lambda _: Frequency(),
    "neighbours": Neighbours,
    "foresight": lambda _: Foresight(),
    "decided": lambda _: Decided(),
}
"""How each is made for a model's clusters."""


def _best(scores: Floats, count: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:count].tolist()


def _coming(seen: Seen) -> list[tuple[int, int, int]]:
    """Each layer's next pass, the next first: its row, how many passes on, and how many tokens."""
    found: list[tuple[int, int, int]] = []
    for layer in dict.fromkeys(seen.order):
        ahead = seen.passes_until(layer)
        if ahead is None:
            next_token = seen.passes_until(layer, tokens_ahead=1)
            assert next_token is not None, "every layer comes in the next token"
            found.append((layer, next_token, 1))
        else:
            found.append((layer, ahead, 0))
    return sorted(found, key=lambda entry: entry[1])


def _visited_last(last_visits: Integers) -> NDArray[np.bool_]:
    """Which experts of a layer its last pass visited."""
    latest = last_visits.max()
    return (last_visits == latest) & (latest > 0)
