"""Ctrl-C in a talk at a terminal: what is saved afterwards is what was said, and its state is whole."""

import random
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.engine import Engine
from runtime.streams.state_file import SavedState, open_state
from tests.runtime.cli.talking import FOREVER, Terminal, make_model

MESSAGES = ("hello", "go on", "and then")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def assert_whole(model: Path, saved: SavedState, *, messages: tuple[str, ...]) -> None:
    """The state is that of a run in one go over the same tokens, and the turns are told."""
    assert tuple(turn.message for turn in saved.about.turns) == messages
    assert all(turn.reply for turn in saved.about.turns)
    assert saved.about.num_read >= len(saved.ids) - 1
    with Engine.open(model, num_threads=1) as engine:
        state = engine.new_state(saved.about.rounds)
        engine.prefill(state, np.array(saved.ids[: saved.about.num_read]))
        assert state.arena.tobytes() == bytes(saved.state)
        if saved.outlook:
            assert engine.outlook(state) == saved.outlook


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_that_were_interrupted_are_part_of_a_whole_talk(model: Path, tmp_path: Path, seed: int):
    draws, path = random.Random(seed), tmp_path / "talk.state"
    with Terminal("-m", str(model), "--seed", "1", *FOREVER, state=tmp_path) as terminal:
        terminal.wait_for(r"> ")
        for message in MESSAGES:
            terminal.type(f"{message}\n")
            terminal.wait_for(rf"{message}\r\n(?s:.{{20}})")
            time.sleep(draws.uniform(0, 0.05))
            terminal.type("\x03")
            terminal.wait_for(r"\n> ")
        terminal.type(f"/save {path}\n")
        terminal.wait_for(r"\n> ")
        terminal.type("/exit\n")
        assert terminal.leaves() == 0
    assert_whole(model, open_state(path), messages=MESSAGES)


@pytest.mark.parametrize("seed", [3, 4])
def test_leaving_in_the_middle_of_an_answer_loses_nothing_of_it(model: Path, tmp_path: Path, seed: int):
    draws, path = random.Random(seed), tmp_path / "talk.state"
    with Terminal("-m", str(model), "--save", str(path), *FOREVER, state=tmp_path) as terminal:
        terminal.wait_for(r"> ")
        terminal.type("hello\n")
        terminal.wait_for(r"hello\r\n(?s:.{20})")
        time.sleep(draws.uniform(0, 0.05))
        terminal.type("\x03\x03")
        assert terminal.leaves(typing="\x03") == 130
    assert_whole(model, open_state(path), messages=("hello",))
