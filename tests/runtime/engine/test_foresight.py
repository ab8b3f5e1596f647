"""What the engine tells of experts: which it visited, which it foresees; all beside the reference."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from chronos_moe.clusters import cluster
from chronos_moe.visit_log import NOT_TAKEN, co_occurrence, read_visits, write_visits
from configs.errors import DataError, UsageError
from configs.inventory import Layer, layers
from runtime.binding import Part
from runtime.engine import Engine
from runtime.measuring.foreseeing import measure_foresight
from runtime.measuring.visiting import record_visits
from runtime.model_folder import open_model
from runtime.reference.engine import ReferenceEngine
from tests.runtime.engine.models import make_model, same_bits, same_states, tokens_of

AHEAD = "experts decided a layer ahead"
FAR_AHEAD = "experts decided far ahead, by softmax, no loop"
HINTED = ["as it is", AHEAD, FAR_AHEAD]


def told(reference: ReferenceEngine, decided: list[tuple[Layer, NDArray[np.int64]]]) -> NDArray[np.float32]:
    """What the reference foresees, with what was decided in place of guesses."""
    assert reference.foresight is not None
    found, rows = reference.foresight.copy(), reference.config.backbone.moe.layers
    for layer, chosen in decided:
        found[0, rows.index(layer.index)] = -np.inf
        found[0, rows.index(layer.index), chosen] = np.inf
    return found


@pytest.mark.parametrize("variant", HINTED)
def test_choices_and_foresight_are_the_references(tmp_path: Path, variant: str) -> None:
    path = make_model(tmp_path, variant)
    reference = ReferenceEngine(open_model(path))
    with Engine.open(path, num_threads=2, foresight=True) as engine:
        assert engine.foresight is not None
        by_index = {layer.index: layer for layer in layers(engine.config)}
        state, right = engine.new_state(), reference.new_state()
        choices = [choice for choice in engine.chosen if choice.round_number < state.rounds]
        for token in tokens_of(engine.config, 12):
            engine.step(state, int(token))
            reference.step(right, int(token))
            assert len(choices) == len(reference.visited)
            for choice, chosen in zip(choices, reference.visited, strict=True):
                assert np.array_equal(choice.experts_TA[:1], chosen)
            decided = [
                (by_index[choice.layer], choice.experts_TA[0])
                for choice in choices
                if by_index[choice.layer].decided_behind is not None
            ]
            assert same_bits(engine.foresight, np.ascontiguousarray(told(reference, decided)))


@pytest.mark.parametrize("variant", HINTED)
def test_a_slice_foresees_for_all_its_tokens(tmp_path: Path, variant: str) -> None:
    path = make_model(tmp_path, variant)
    with Engine.open(path, num_threads=2, foresight=True) as engine:
        assert engine.foresight is not None
        ids = tokens_of(engine.config, 9)
        state, each = engine.new_state(1), list[NDArray[np.float32]]()
        for token in ids:
            engine.step(state, int(token))
            each.append(engine.foresight.copy())
        together = engine.new_state(1)
        engine.prefill(together, ids)
        assert same_bits(engine.foresight[0], np.max(each, axis=0)[0])
        assert same_bits(engine.foresight[1:], each[-1][1:])


def test_foresight_changes_no_bit(micro: Path) -> None:
    with (
        Engine.open(micro, num_threads=2) as plain,
        Engine.open(micro, num_threads=2, foresight=True) as told,
    ):
        assert plain.foresight is None
        ids = tokens_of(plain.config, 70)
        for engine in (plain, told):
            engine.prefill(state := engine.new_state(), ids)
            engine.step(state, 3)
        assert same_bits(plain.logits(), told.logits())


def test_streams_side_by_side_are_decided_as_alone(tmp_path: Path) -> None:
    """Tokens of several streams, of other depths, stand in one loop: each meets the experts of its own."""
    with Engine.open(make_model(tmp_path, AHEAD), num_threads=2, num_streams=3) as engine:
        texts = [tokens_of(engine.config, count, seed=count) for count in (5, 1, 9)]
        alone, together = ([engine.new_state(rounds) for rounds in (1, 4, 2)] for _ in range(2))
        right = list[NDArray[np.float32]]()
        for state, ids in zip(alone, texts, strict=True):
            engine.prefill(state, ids)
            right.append(engine.logits().copy())
        parts = [Part(state=state, ids=ids) for state, ids in zip(together, texts, strict=True)]
        assert same_bits(engine.step_together(parts).copy(), np.stack(right))
        assert all(same_states(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("variant", ["as it is", AHEAD])
def test_what_is_decided_ahead_is_known_whole(tmp_path: Path, variant: str) -> None:
    path = make_model(tmp_path, variant)
    with Engine.open(path, num_threads=1, foresight=True) as engine:
        texts = [tokens_of(engine.config, 20, seed=seed) for seed in range(2)]
        found = measure_foresight(engine, texts, most_tokens=32)
        assert found.num_tokens == 32
        for row in range(len(found.layers)):
            way = found.ways["foresight", row, 0]
            assert (way.recall, way.precision) == (1, 1) if variant == AHEAD else way.recall < 1
            assert found.ways["twice", row, 1].recall >= found.ways["foresight", row, 1].recall
        assert 0 < found.steady < 1
        assert 0 < found.met <= 1


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_log_holds_every_choice(tmp_path: Path, engine: Engine, micro: Path, rounds: int) -> None:
    texts = [tokens_of(engine.config, count, seed=count) for count in (5, 130, 40)]
    heard = list[int]()
    log = record_visits(engine, texts, rounds=rounds, most_tokens=160, progress=heard.append)
    assert log.begins.tolist() == [0, 5, 135, 160]
    assert sum(heard) == 160
    assert np.array_equal(log.ids_T, np.concatenate(texts)[:160])
    write_visits(tmp_path / "log", log)
    assert np.array_equal(read_visits(tmp_path / "log", model=engine.digest).chosen, log.chosen)
    reference = ReferenceEngine(open_model(micro))
    right, state = list[NDArray[np.int64]](), reference.new_state(rounds)
    for token in texts[1][:20]:
        reference.step(state, int(token))
        right.append(np.stack([chosen[0] for chosen in reference.visited]))
    assert np.array_equal(log.chosen[5:25], np.stack(right))
    assert (log.chosen != NOT_TAKEN).all()
    clusters = cluster(co_occurrence(log), experts=log.experts, most=3)
    assert sorted(expert for members in clusters for expert in members) == sorted(log.experts)


def test_what_has_no_experts_or_no_text_is_refused(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(DataError, match="no text"):
        record_visits(engine, [])
    with pytest.raises(UsageError, match="foresees nothing"):
        measure_foresight(engine, [], most_tokens=1)
    with Engine.open(
        make_model(tmp_path, "no loop, exact flow, plain feed-forward"), num_threads=1, foresight=True
    ) as plain:
        assert plain.foresight is None
        with pytest.raises(UsageError, match="no experts"):
            record_visits(plain, [])
