"""What a measurement times: a prompt that is read, and an answer that is given word by word.

Words are given beforehand, so that a model which repeats itself does not keep visiting the same experts. The
best word is chosen all the same, as an answer does it after each.
"""

from collections.abc import Sequence

import numpy as np

from runtime.binding import Ids
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.sampler import Sampler
from runtime.sampling import SamplingSettings
from runtime.state import State


class Answering:
    """An engine, its head, and a choice that draws nothing."""

    def __init__(self, engine: Engine, *, exit_threshold: float) -> None:
        self.engine, self.exit_threshold = engine, exit_threshold
        self._speaker = Speaker(engine)
        self._speaker.expect(all_logits=False)
        self._sampler = Sampler(SamplingSettings(temperature=0), num_ids=self._speaker.num_ids)

    def drawn(self, seed: int, count: int) -> list[int]:
        """Words, each as likely as the others."""
        ids: list[int] = np.random.default_rng(seed).integers(0, self._speaker.num_ids, count).tolist()
        return ids

    def read(self, state: State, ids: Ids) -> None:
        """A prompt, or a part of it."""
        self.engine.prefill(state, ids, exit_threshold=self.exit_threshold)

    def step(self, state: State, ids: Sequence[int]) -> int:
        """Read words, mostly one, and give the best to follow."""
        self._speaker.read(state, ids, exit_threshold=self.exit_threshold)
        return self._sampler.choose(self._speaker, recent=(), position=state.position).token
