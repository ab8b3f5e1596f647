"""Which experts a text visits: the engine reads it, and every choice is written down."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from chronos_moe.visit_log import VisitLog
from configs.errors import DataError, UsageError
from runtime.engine import Engine

Progress = Callable[[int], None]
"""Given the tokens read since last time."""


def record_visits(
    engine: Engine,
    texts: Iterable[NDArray[np.int64]],  # the ids of each document
    *,
    rounds: int | None = None,
    most_tokens: int | None = None,
    progress: Progress | None = None,
) -> VisitLog:
    """The log of texts, each read from its beginning, up to about `most_tokens` in all.

    All tokens take all `rounds`, so that none is left out where an answer may go on for longer.
    """
    if not engine.chosen:
        raise UsageError("this model has no experts", hint="A model with experts visits some of them.")
    state = engine.new_state(rounds)
    choices = [chosen for chosen in engine.chosen if chosen.round_number < state.rounds]
    read, chosen, begins = list[NDArray[np.int64]](), list[NDArray[np.uint16]](), [0]
    for ids_T in texts:
        left = len(ids_T) if most_tokens is None else min(len(ids_T), most_tokens - begins[-1])
        if left <= 0:
            break
        state = engine.new_state(rounds)
        for first in range(0, left, engine.slice_tokens):
            piece = ids_T[first : min(first + engine.slice_tokens, left)]
            engine.prefill(state, piece)
            visited = [choice.experts_TA[: len(piece)] for choice in choices]
            chosen.append(np.stack(visited, axis=1).astype(np.uint16))
            if progress is not None:
                progress(len(piece))
        read.append(ids_T[:left])
        begins.append(begins[-1] + left)
    if not read:
        raise DataError("there is no text to read", hint="Name files with at least one document.")
    return VisitLog(
        model=engine.digest,
        vocab_size=engine.config.vocab_size,
        num_experts=engine.config.backbone.moe.n_routed_experts,
        passes=tuple((choice.layer, choice.round_number) for choice in choices),
        ids_T=np.concatenate(read).astype(np.uint32),
        begins=np.array(begins, dtype=np.int64),
        chosen=np.concatenate(chosen),
    )
