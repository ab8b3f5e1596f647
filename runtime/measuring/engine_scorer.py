"""The engine as a scorer of text: one stream, begun anew with every document."""

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Engine
from runtime.measuring.exit import exit_threshold_of


class EngineScorer:
    """A `Scorer` for a packed model; `rounds` and exit of the loop are the config's where none are given."""

    def __init__(
        self, engine: Engine, *, rounds: int | None = None, exit_threshold: float | None = None
    ) -> None:
        self.engine = engine
        self.rounds = rounds
        self.exit_threshold = exit_threshold_of(engine.config, exit_threshold)
        self._state = engine.new_state(rounds)

    def score(self, ids_T: NDArray[np.int64], *, goes_on: bool) -> NDArray[np.float64]:
        """Natural logarithms of the probability of each id but the first, given all before it."""
        if not goes_on:
            self._state = self.engine.new_state(self.rounds)
        return self.engine.scores(self._state, ids_T, exit_threshold=self.exit_threshold)
