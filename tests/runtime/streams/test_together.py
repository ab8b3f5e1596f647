"""Steps of several streams: each one's bits are those that it has alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UsageError
from runtime.binding import Part
from runtime.engine import Engine
from runtime.state import State
from tests.runtime.engine.models import (
    VARIANTS,
    make_model,
    mixing_threshold,
    same_bits,
    same_states,
    tokens_of,
)

NUM_STREAMS = 5


class Alone:
    """Streams that are read one by one, by an engine for one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.thresholds = (0.0, mixing_threshold(engine, tokens_of(engine.config, 12)))

    def begun(self, number: int) -> State:
        return self.engine.new_state(1 + number % self.engine.config.rounds_most)

    def threshold(self, number: int) -> float:
        return self.thresholds[number % 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="module")
def engines(folder: Path):
    with (
        Engine.open(folder, num_threads=1) as one,
        Engine.open(folder, num_threads=2, num_streams=NUM_STREAMS, slice_tokens=24) as many,
    ):
        yield Alone(one), many


@settings(max_examples=25)
@given(data=st.data())
def test_a_stream_does_not_notice_its_neighbours(engines: tuple[Alone, Engine], data: st.DataObject) -> None:
    alone, many = engines
    states: list[tuple[int, State, State] | None] = [None] * NUM_STREAMS
    born = 0
    for _ in range(data.draw(st.integers(2, 7))):
        parts: list[Part | None] = [None] * NUM_STREAMS
        right: list[Any] = []
        room = many.slice_tokens - NUM_STREAMS
        for place in range(NUM_STREAMS):
            fate = data.draw(st.sampled_from(["rest", "leave", "step", "step", "step", "read"]))
            if fate == "leave":
                states[place] = None
            if fate in ("rest", "leave"):
                continue
            if states[place] is None:
                states[place] = (born, alone.begun(born), alone.begun(born))
                born += 1
            number, own, shared = states[place] or (0, None, None)
            assert own is not None
            assert shared is not None
            count = 1 if fate == "step" else data.draw(st.integers(1, 1 + room))
            room -= count - 1
            ids = tokens_of(many.config, count, seed=data.draw(st.integers(0, 1000)))
            is_heard = data.draw(st.booleans())
            threshold = alone.threshold(number)
            parts[place] = Part(state=shared, ids=ids, exit_threshold=threshold, is_heard=is_heard)
            alone.engine.prefill(own, ids, exit_threshold=threshold)
            if is_heard:
                right.append(alone.engine.logits().copy())
        if not any(parts):
            continue
        logits = many.step_together(parts)
        assert len(logits) == len(right)
        assert all(same_bits(row, expected) for row, expected in zip(logits, right, strict=True))
        for entry in states:
            if entry is not None:
                assert same_states(entry[1], entry[2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_layer_keeps_streams_apart(tmp_path: Path, variant: str) -> None:
    path = make_model(tmp_path, variant)
    with (
        Engine.open(path, num_threads=1) as one,
        Engine.open(path, num_threads=3, num_streams=3, slice_tokens=16) as many,
    ):
        threshold = mixing_threshold(one, tokens_of(one.config, 24)) if one.config.rounds_most > 1 else 0.0
        own = [one.new_state(one.config.rounds_most) for _ in range(3)]
        shared = [state.copy() for state in own]
        for turn, counts in enumerate([(9, 1, 3), (1, 12, 1), (1, 1, 1), (2, 0, 14), (0, 1, 1)]):
            ids = [tokens_of(one.config, count, seed=10 * turn + n) for n, count in enumerate(counts)]
            found = many.step_together(
                [
                    Part(state=state, ids=some, exit_threshold=threshold) if len(some) else None
                    for state, some in zip(shared, ids, strict=True)
                ]
            ).copy()
            rows = iter(found)
            for state, some in zip(own, ids, strict=True):
                if len(some):
                    one.prefill(state, some, exit_threshold=threshold)
                    assert same_bits(one.logits(), next(rows))
        assert all(same_states(mine, theirs) for mine, theirs in zip(own, shared, strict=True))


def test_an_engine_of_many_also_reads_one(engines: tuple[Alone, Engine]) -> None:
    alone, many = engines
    ids = tokens_of(many.config, 60)
    own, shared, other = (alone.engine.new_state() for _ in range(3))
    alone.engine.prefill(own, ids)
    many.step_together([None, Part(state=other, ids=ids[:5])])
    many.prefill(shared, ids[:-1])
    many.step(shared, int(ids[-1]))
    assert same_bits(alone.engine.logits(), many.logits())
    assert same_states(own, shared)
    many.step_together([None, None, None, Part(state=other, ids=ids[5:6])])
    assert same_bits(many.scores(other, ids), alone.engine.scores(_read(alone.engine, ids[:6]), ids))


def test_an_outlook_gives_the_scores_again(engines: tuple[Alone, Engine]) -> None:
    alone, many = engines
    ids = tokens_of(many.config, 9)
    states = [many.new_state() for _ in range(3)]
    logits = many.step_together([Part(state=state, ids=ids[: 3 + n]) for n, state in enumerate(states)])
    rows, outlooks = logits.copy(), [many.outlook(state) for state in states]
    many.step(states[0].copy(), 1)
    assert many.outlook(states[1]) is None
    for state, row, outlook in zip(states, rows, outlooks, strict=True):
        assert outlook is not None
        again = state.copy()
        alone.engine.recall(again, outlook)
        assert same_bits(alone.engine.logits(), row)
        assert alone.engine.outlook(again) == outlook
    with pytest.raises(UsageError, match="an outlook of 3 bytes"):
        many.recall(states[0], b"123")


def test_a_step_that_cannot_be_is_refused_and_changes_nothing(
    engines: tuple[Alone, Engine], folder: Path
) -> None:
    _, many = engines
    state, other = many.new_state(), many.new_state()
    for parts, message in (
        ([], "without a stream"),
        ([None], "without a stream"),
        ([Part(state=state, ids=[])], "at least 1 of each"),
        ([Part(state=state, ids=[1] * 20), Part(state=other, ids=[1] * 5)], "25 tokens in a step"),
        ([Part(state=state, ids=[1]), Part(state=state, ids=[2])], "in two places"),
        ([Part(state=state, ids=[512])], "vocabulary holds 0 to 511"),
        ([Part(state=state, ids=[1], exit_threshold=2.0)], "exit threshold"),
        ([Part(state=state, ids=[1], rounds=4)], "this state takes 1 to 2"),
        ([None] * NUM_STREAMS + [Part(state=state, ids=[1])], "6 places"),
    ):
        with pytest.raises(UsageError, match=message):
            many.step_together(parts)
    assert state.position == 0
    with pytest.raises(UsageError, match="3 streams in slices of 2"):
        Engine.open(folder, num_streams=3, slice_tokens=2)


def _read(engine: Engine, ids: np.ndarray[Any, Any]) -> State:
    state = engine.new_state()
    engine.prefill(state, ids)
    return state
