"""The method `state`: what a stream remembers before its first word. No weight moves."""

from collections.abc import Mapping
from math import frexp, fsum, sqrt

import numpy as np

from quant.adapter import Setting
from quant.philox import random_words
from runtime.adapting.drift import UNIT, look_length, whole_length
from runtime.adapting.learnt import number_told, whole_told
from runtime.adapting.state import (
    DEFAULT_EPSILON,
    MEMORY,
    MOST_EXPONENT,
    BeginState,
    Place,
    memories,
    read_part,
    written_exponents,
)
from runtime.engine import Engine
from runtime.finetune.method import MethodOptions, OwnOptions
from runtime.finetune.packed import PackedMethod, check_settings, opened_to_learn

READ_TOKENS = 64
"""Any words, which show how much a memory's numbers weigh."""


def prepare(options: MethodOptions) -> PackedMethod:
    """A model whose streams' beginnings move."""
    check_settings(options.settings, method="state")
    epsilon = DEFAULT_EPSILON if options.epsilon is None else options.epsilon
    units = look_length(epsilon)
    opened = opened_to_learn(options)
    exponents = _exponents(opened.engine, rounds=options.rounds)
    settings = {"epsilon": epsilon, "exponents": written_exponents(exponents)}
    return PackedMethod(
        opened,
        BeginState(opened.engine.layout, seed=options.seed, settings=settings),
        options=options,
        settings=settings,
        look_length=units * UNIT,
        length=whole_length,
    )


def options_of(settings: Mapping[str, Setting]) -> OwnOptions:
    """What a log's settings say of its options."""
    epsilon = number_told(settings, "epsilon")
    look_length(epsilon)
    return OwnOptions(epsilon=epsilon, rounds=whole_told(settings, "rounds"))


def _exponents(engine: Engine, *, rounds: int | None) -> dict[Place, int]:
    """For each memory the power of two above the root mean square of its numbers."""
    state = engine.new_state(rounds)
    words = random_words(READ_TOKENS, seed=0)[:, 0]
    engine.prefill(state, words.astype(np.int64) % engine.config.vocab_size)
    found: dict[Place, int] = {}
    for place in memories(engine.layout):
        if place[1] < state.rounds:
            part = read_part(engine.layout.place(*place, MEMORY).view(state.arena)).reshape(-1)
            # Of exact sums, so that every machine finds the same.
            mean = fsum(float(value) ** 2 for value in part) / part.size
            exponent = frexp(sqrt(mean))[1] if mean else 0
            found[place] = max(-MOST_EXPONENT, min(MOST_EXPONENT, exponent))
    return found
