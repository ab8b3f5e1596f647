"""The engine as a scorer of text: one stream, begun anew with every document."""

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Engine


class EngineScorer:
    """`runtime.perplexity.Scorer` for a packed model; `rounds` of the loop, or the config's own number."""

    def __init__(self, engine: Engine, *, rounds: int | None = None) -> None:
        self.engine = engine
        self.rounds = rounds
        self._state = engine.new_state(rounds)

    def score(self, ids_T: NDArray[np.int64], *, goes_on: bool) -> NDArray[np.float64]:
        """Natural logarithms of the probability of each id but the first, given all before it."""
        if not goes_on:
            self._state = self.engine.new_state(self.rounds)
        return self.engine.scores(self._state, ids_T)
