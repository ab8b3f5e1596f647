"""However a text is cut, by whatever number of threads, through whatever loop: the bits are the same."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine import Engine
from tests.runtime.engine.models import (
    VARIANTS,
    make_model,
    mixing_threshold,
    same_bits,
    same_states,
    tokens_of,
)

NUM_TOKENS = 90


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_prompt_gives_the_bits_of_steps(tmp_path: Path, variant: str, num_threads: int) -> None:
    path = make_model(tmp_path, variant)
    with Engine.open(path, num_threads=1) as alone, Engine.open(path, num_threads=num_threads) as engine:
        ids = tokens_of(engine.config, NUM_TOKENS)
        rounds = engine.config.rounds_most
        for threshold in (0.0, mixing_threshold(alone, ids[:24]) if rounds > 1 else 0.0):
            stepped, read = alone.new_state(rounds), engine.new_state(rounds)
            for token in ids:
                alone.step(stepped, int(token), exit_threshold=threshold)
            engine.prefill(read, ids, exit_threshold=threshold)
            assert same_bits(alone.logits(), engine.logits())
            assert same_states(stepped, read)
            assert read.position == NUM_TOKENS


@settings(max_examples=40)
@given(
    cuts=st.lists(st.integers(0, NUM_TOKENS), max_size=8),
    single=st.sets(st.integers(0, 8)),
    rounds=st.integers(1, 4),
    leaves=st.booleans(),
)
def test_any_cut_gives_the_same_bits(
    engine: Engine, cuts: list[int], single: set[int], rounds: int, leaves: bool
) -> None:
    ids = tokens_of(engine.config, NUM_TOKENS)
    threshold = mixing_threshold(engine, ids[:12]) if leaves else 0.0
    whole, cut = engine.new_state(rounds), engine.new_state(rounds)
    engine.prefill(whole, ids, exit_threshold=threshold)
    right = engine.logits().copy()
    borders = [0, *sorted(cuts), NUM_TOKENS]
    for number, (first, after) in enumerate(pairwise(borders)):
        if number in single:
            for token in ids[first:after]:
                engine.step(cut, int(token), exit_threshold=threshold)
        else:
            engine.prefill(cut, ids[first:after], exit_threshold=threshold)
    assert same_bits(engine.logits(), right)
    assert same_states(cut, whole)


@pytest.mark.parametrize("slice_tokens", [1, 3, 16, 200])
def test_the_size_of_a_slice_does_not_show(micro: Path, engine: Engine, slice_tokens: int) -> None:
    ids = tokens_of(engine.config, NUM_TOKENS)
    usual = engine.new_state()
    engine.prefill(usual, ids)
    with Engine.open(micro, num_threads=2, slice_tokens=slice_tokens) as other:
        state = other.new_state()
        other.prefill(state, ids)
        assert same_bits(other.logits(), engine.logits())
        assert same_states(state, usual)


def test_streams_take_turns(engine: Engine) -> None:
    texts = [tokens_of(engine.config, 30, seed=seed) for seed in range(3)]
    alone = []
    for text in texts:
        state = engine.new_state()
        engine.prefill(state, text)
        alone.append((state, engine.logits().copy()))
    states = [engine.new_state() for _ in texts]
    for place in range(30):
        for state, text in zip(states, texts, strict=True):
            engine.step(state, int(text[place]))
    for state, text, (right, logits) in zip(states, texts, alone, strict=True):
        assert same_states(state, right)
        again = state.copy()
        engine.step(again, int(text[0]))
        engine.step(right, int(text[0]))
        assert same_states(again, right)
        assert not same_bits(engine.logits(), logits)


def test_a_copy_goes_its_own_way(engine: Engine) -> None:
    ids = tokens_of(engine.config, 20)
    state = engine.new_state()
    engine.prefill(state, ids)
    before = state.arena.copy()
    copy = state.copy()
    engine.prefill(copy, ids)
    assert same_bits(state.arena, before)
    assert (state.position, copy.position) == (20, 40)
    assert copy.num_bytes == state.num_bytes == engine.state_bytes()
    assert not np.shares_memory(copy.arena, state.arena)
