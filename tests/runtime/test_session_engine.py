"""A session over the engine: the text is the same on any way to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.text.tokenizer import open_tokenizer
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.model_folder import open_model
from runtime.sampling import SamplingSettings
from runtime.session import Session
from runtime.telling import Limits
from tests.runtime.cli.talking import make_model

DRAWN = SamplingSettings(temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    with Engine.open(folder, num_threads=2) as engine:
        yield engine


def begun(engine: Engine, folder: Path, **given: Any) -> Session:
    tokenizer = open_tokenizer(folder)
    speaker = Speaker(engine, num_ids=tokenizer.vocab_size)
    template = open_model(folder).template(tokenizer)
    asked = {"settings": DRAWN, "limits": Limits(max_tokens=24)} | given
    return Session(speaker, head=speaker, tokenizer=tokenizer, template=template, **asked)


def talked(session: Session) -> list[str]:
    return ["".join(session.say(message)) for message in ("Hello", "Why?", "And then " * 40)]


def test_threads_and_kept_states_change_nothing(engine: Engine, folder: Path):
    texts = talked(begun(engine, folder))
    assert len(set(texts)) == 3
    with Engine.open(folder, num_threads=1, slice_tokens=7) as other:
        assert talked(begun(other, folder, kept_bytes=0)) == texts


def test_sessions_take_turns_on_one_engine(engine: Engine, folder: Path):
    texts = talked(begun(engine, folder))
    one, two = begun(engine, folder), begun(engine, folder)
    pieces: tuple[list[str], list[str]] = ([], [])
    answers = (one.say("Hello"), two.say("Hello"))
    running = [0, 1]
    while running:
        for number in list(running):
            # Each choice follows its own step at once, so the other's steps do not come between.
            piece = next(answers[number], None)
            if piece is None:
                running.remove(number)
            else:
                pieces[number].append(piece)
    assert "".join(pieces[0]) == "".join(pieces[1]) == texts[0]


@pytest.mark.parametrize("kept_bytes", [0, 10**9])
def test_going_back_gives_the_same_text_again(engine: Engine, folder: Path, kept_bytes: int):
    session = begun(engine, folder, kept_bytes=kept_bytes)
    first = "".join(session.say("Hello"))
    second = "".join(session.say("Why?"))
    other = "".join(session.regenerate())
    assert other != second
    session.undo()
    assert "".join(session.say("Why?")) == second
    session.undo()
    session.undo()
    assert "".join(session.say("Hello")) == first


def test_an_answer_in_parts_is_the_answer_at_once(engine: Engine, folder: Path):
    whole = "".join(begun(engine, folder, limits=Limits(max_tokens=16)).complete("Once upon"))
    session = begun(engine, folder, limits=Limits(max_tokens=4))
    parts = ["".join(session.complete("Once upon"))]
    ids = list(session.last.ids) if session.last else []
    while session.last and session.last.finish == "length" and len(ids) < 16:
        parts.append("".join(session.complete("")))
        ids += session.last.ids
    at_once = begun(engine, folder, limits=Limits(max_tokens=16))
    list(at_once.complete("Once upon"))
    assert at_once.last is not None
    assert ids == list(at_once.last.ids)
    assert whole.startswith(parts[0].rstrip("\ufffd"))


def test_the_depth_can_be_changed_and_changed_back(engine: Engine, folder: Path):
    session = begun(engine, folder)
    list(session.say("Hello"))
    rounds = session.rounds or engine.config.rounds_default
    session.set_rounds(1)
    one = "".join(session.say("Why?"))
    session.undo()
    session.set_rounds(rounds)
    two = "".join(session.say("Why?"))
    session.undo()
    session.set_rounds(1)
    assert "".join(session.say("Why?")) == one != two
