"""How well experts are foreseen: what is named beforehand beside what a text then visits.

A way of foreseeing names a set for each layer and horizon: 0 is the token that is read, whose layers are
still ahead, k the k-th one after it. What a layer visits is the union over the rounds of the loop.

    foresight   the experts with the best scores in the engine's buffer, as many as a token visits in a round
    twice       twice as many
    same        those of the token that was read last, which costs nothing to know
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.meter import Foreseen
from configs.errors import DataError, UsageError
from configs.inventory import layers
from runtime.engine import Engine

Way = Literal["foresight", "twice", "same"]
WAYS: tuple[Way, ...] = get_args(Way)
Sets = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreseeing:
    """What was found."""

    layers: tuple[int, ...]
    num_tokens: int
    ways: dict[tuple[Way, int, int], Foreseen] = field(default_factory=dict[tuple[Way, int, int], Foreseen])
    """By the way, the layer's row, and the horizon."""
    steady: float = 0.0
    """Of a token's experts, the share that the token before it had visited too."""
    met: float = 0.0
    """Different experts of a layer that a token visits, of those that it would with a set a round."""

    def over_layers(self, way: Way, horizon: int) -> Foreseen:
        """All layers together."""
        found = [told for (name, _, ahead), told in self.ways.items() if (name, ahead) == (way, horizon)]
        return Foreseen(
            wished=sum(told.wished for told in found),
            visited=sum(told.visited for told in found),
            both=sum(told.both for told in found),
        )


def measure_foresight(
    engine: Engine, texts: Iterable[NDArray[np.int64]], *, rounds: int | None = None, most_tokens: int
) -> Foreseeing:
    """Read texts token by token with an engine that was opened with `foresight`."""
    if engine.foresight is None:
        raise UsageError("this engine foresees nothing", hint="Open a model with experts, with foresight.")
    moe = engine.config.backbone.moe
    rows, num_chosen = tuple(moe.layers), moe.num_experts_per_tok
    ways: dict[tuple[Way, int, int], Foreseen] = {
        (way, row, ahead): Foreseen()
        for way in WAYS
        for row in range(len(rows))
        for ahead in range(1 + moe.lookahead_steps)
    }
    num_tokens = kept = visits = pairs = 0
    state = engine.new_state(rounds)
    choices = [choice for choice in engine.chosen if choice.round_number < state.rounds]
    renewed = _decided_each_round(engine)
    for ids_T in texts:
        ids_T = ids_T[: most_tokens - num_tokens]
        if not len(ids_T):
            break
        state = engine.new_state(rounds)
        sets_TLE = np.zeros((len(ids_T), len(rows), moe.n_routed_experts), dtype=np.bool_)
        last_TLE = np.zeros_like(sets_TLE)
        scores = np.zeros((len(ids_T), *engine.foresight.shape), dtype=np.float32)
        for token, number in enumerate(ids_T):
            engine.step(state, int(number))
            scores[token] = engine.foresight
            for choice in choices:
                row, chosen_A = rows.index(choice.layer), choice.experts_TA[0]
                sets_TLE[token, row, chosen_A] = True
                last_TLE[token, row] = False
                last_TLE[token, row, chosen_A] = True
        num_tokens += len(ids_T)
        kept += int((sets_TLE[1:] & sets_TLE[:-1]).sum())
        pairs += int(sets_TLE[1:].sum())
        visits += int(sets_TLE.sum())
        for (way, row, ahead), told in ways.items():
            # What is decided anew in each round is told anew: the buffer speaks of the last one.
            real = last_TLE if ahead == 0 and row in renewed and way != "same" else sets_TLE
            named, visited = _named_and_visited(way, row, ahead, scores, real, num_chosen=num_chosen)
            told.wished += int(named.sum())
            told.visited += int(visited.sum())
            told.both += int((named & visited).sum())
    if not num_tokens:
        raise DataError("there is no text to read", hint="Name files with at least one document.")
    return Foreseeing(
        layers=rows,
        num_tokens=num_tokens,
        ways=ways,
        steady=kept / max(1, pairs),
        met=visits / (num_tokens * len(choices) * num_chosen),
    )


def _decided_each_round(engine: Engine) -> list[int]:
    """The rows of layers whose experts are decided inside the loop, and so anew in each round."""
    plan = layers(engine.config)
    found = [plan[layer].decided_behind for layer in engine.config.backbone.moe.layers]
    return [
        row
        for row, (layer, source) in enumerate(zip(engine.config.backbone.moe.layers, found, strict=True))
        if source is not None and plan[layer].looped and plan[source].looped
    ]


def _named_and_visited(
    way: Way, row: int, ahead: int, scores: NDArray[np.float32], sets_TLE: Sets, *, num_chosen: int
) -> tuple[Sets, Sets]:
    """What a way names of a layer, and what the layer visits then, token by token."""
    real = sets_TLE[:, row]
    if way == "same":
        # Of the token that is being read nothing is known yet, so its horizon is one more.
        behind = max(1, ahead)
        return real[: max(0, len(real) - behind)], real[behind:]
    told = scores[: max(0, len(real) - ahead), ahead, row]
    count = min(num_chosen * (2 if way == "twice" else 1), told.shape[-1])
    best = np.argsort(-told, axis=-1, kind="stable")[:, :count]
    named = np.zeros(told.shape, dtype=np.bool_)
    np.put_along_axis(named, best, True, axis=-1)
    # What is certain is named, however much it is, and what is ruled out is not.
    return (named | (told == np.inf)) & (told > -np.inf), real[ahead:]
