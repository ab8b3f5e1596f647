"""The engine beside the reference engine: every bit of logits, of the head's input and of the state."""

from pathlib import Path

import numpy as np
import pytest

from configs.errors import UsageError
from runtime.engine import Engine
from runtime.model_folder import open_model
from runtime.reference.engine import ReferenceEngine, ReferenceState
from runtime.state import State
from tests.runtime.engine.models import VARIANTS, make_model, mixing_threshold, same_bits, tokens_of


def differing_fields(engine: Engine, state: State, reference: ReferenceState) -> list[str]:
    """The fields of a state that are not those of the reference."""
    wrong: list[str] = []
    for (layer, number, name), placed in engine.layout.places.items():
        if number < state.rounds:
            right = np.ascontiguousarray(reference.layers[layer][number][name])
            if not same_bits(placed.view(state.arena), right):
                wrong.append(f"layer {layer}, round {number}: {name}")
    return wrong


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_bit_is_the_references(tmp_path: Path, variant: str) -> None:
    path = make_model(tmp_path, variant)
    reference = ReferenceEngine(open_model(path))
    with Engine.open(path, num_threads=2) as engine:
        rounds = engine.config.rounds_most
        ids = tokens_of(engine.config, 40)
        threshold = mixing_threshold(engine, ids) if rounds > 1 else 0.0
        state, right = engine.new_state(rounds), reference.new_state(rounds)
        seen: set[int] = set()
        for number, token in enumerate(ids):
            # The first tokens take all rounds; then some leave sooner.
            exit_threshold = threshold if number > 8 else 0.0
            engine.step(state, int(token), exit_threshold=exit_threshold)
            reference.step(right, int(token), exit_threshold=exit_threshold)
            assert same_bits(engine.logits(), reference.logits()), f"token {number}"
            assert reference.hidden is not None
            found = (engine.hidden.codes, engine.hidden.scales, engine.hidden.neg_sums)
            assert all(map(same_bits, found, reference.hidden))
            if rounds > 1:
                assert engine.rounds_taken()[0] == reference.rounds_taken
                seen.add(reference.rounds_taken)
        assert differing_fields(engine, state, right) == []
        assert state.position == right.position == len(ids)
        assert len(seen) > 1 or rounds == 1, "tokens left the loop at different rounds"


def test_fewer_rounds_leave_deeper_states_alone(engine: Engine, micro: Path) -> None:
    reference = ReferenceEngine(open_model(micro))
    state, right = engine.new_state(4), reference.new_state(4)
    for token, rounds in zip(tokens_of(engine.config, 12), (4, 1, 2, 3) * 3, strict=True):
        engine.step(state, int(token), rounds=rounds)
        reference.step(right, int(token), rounds=rounds)
        assert same_bits(engine.logits(), reference.logits())
    assert differing_fields(engine, state, right) == []


def test_the_reference_knows_no_logits_before_a_token(micro: Path) -> None:
    with pytest.raises(UsageError, match="no token"):
        ReferenceEngine(open_model(micro)).logits()
