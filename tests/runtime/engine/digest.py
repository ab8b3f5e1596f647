"""Prints digests of what an engine gives on models; run by a test for the code of other CPUs.

python -m tests.runtime.engine.digest FOLDER... prints one of each model, and then one of 1000 tokens of the
shipped model for each of several numbers of threads.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

from runtime.engine import Engine
from runtime.model_folder import DEMO
from tests.runtime.engine.models import mixing_threshold, tokens_of

THREADS = (1, 2, 3)


def digest_of(path: Path) -> str:
    """Of the logits behind a prompt, through a loop that tokens leave, and of the state at the end."""
    found = hashlib.sha256()
    with Engine.open(path, num_threads=2) as engine:
        rounds = engine.config.rounds_most
        ids = tokens_of(engine.config, 60)
        threshold = mixing_threshold(engine, ids[:12]) if rounds > 1 else 0.0
        state = engine.new_state(rounds)
        engine.prefill(state, ids[:50], exit_threshold=threshold)
        for token in ids[50:]:
            engine.step(state, int(token))
            found.update(engine.logits().tobytes())
        found.update(state.arena.tobytes())
    return found.hexdigest()


def digest_of_thousand(num_threads: int) -> str:
    """Of the logits along 1000 tokens of the shipped model: long slices, short ones, and token by token."""
    found = hashlib.sha256()
    with Engine.open(DEMO, num_threads=num_threads) as engine:
        draws = np.random.default_rng(7)
        ids = draws.integers(0, engine.config.vocab_size, 1000)
        state, at = engine.new_state(), 0
        for size in (*(1,) * 10, 64, 3, 500, 17, 300, 6, *(1,) * 100):
            engine.prefill(state, ids[at : at + size])
            at += size
            found.update(engine.logits().tobytes())
        assert at == len(ids)
    return found.hexdigest()


if __name__ == "__main__":
    print("\n".join(digest_of(Path(argument)) for argument in sys.argv[1:]))
    print("\n".join(digest_of_thousand(count) for count in THREADS))
