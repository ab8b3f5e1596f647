"""Saved states: whole and ours, or refused with words that say why."""

import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import StateError
from configs.text.tokenizer import Tokenizer, open_tokenizer
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.model_folder import open_model
from runtime.sampling import SamplingSettings
from runtime.session import Session, Talk
from runtime.state import State
from runtime.streams.about import Identity
from runtime.streams.comparing import compared
from runtime.streams.sections import read_sections, write_sections
from runtime.streams.state_file import SavedState, check_belongs, open_state, restored_talk, save_talk
from runtime.telling import Limits
from tests.runtime.cli.talking import ROOT, make_model

DRAWN = SamplingSettings(
    temperature=0.9, top_p=0.95, seed=2**64 - 1, logit_bias={5: float("-inf"), 7: 0.1}, repetition_penalty=1.1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return open_tokenizer(folder)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine.open(folder, num_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def identity(engine: Engine, tokenizer: Tokenizer) -> Identity:
    return Identity(name="micro", model=engine.digest, tokenizer=tokenizer.digest, template="t" * 64)


@pytest.fixture(scope="module")
def saved(
    engine: Engine, folder: Path, identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Session]:
    session = begun(engine, folder)
    list(session.say("Hello"))
    list(session.say("Why? \u2028 é"))
    path = tmp_path_factory.mktemp("saved") / "talk.state"
    save_talk(path, session.talk(), identity=identity)
    return path, session


def begun(engine: Engine, folder: Path, **given: object) -> Session:
    tokenizer = open_tokenizer(folder)
    speaker = Speaker(engine, num_ids=tokenizer.vocab_size)
    return Session(
        speaker,
        head=speaker,
        tokenizer=tokenizer,
        template=open_model(folder).template(tokenizer),
        settings=DRAWN,
        limits=Limits(max_tokens=12),
        system="Be brief.",
    )


def test_a_talk_goes_on_as_if_it_had_never_been_saved(
    engine: Engine, folder: Path, identity: Identity, saved: tuple[Path, Session]
) -> None:
    path, before = saved
    session = begun(engine, folder)
    session.resume(restored_talk(open_state(path), engine, identity=identity))
    assert (session.messages, list(session.ids)) == (before.messages, list(before.ids))
    assert session.settings == DRAWN
    whole = begun(engine, folder)
    texts = ["".join(whole.say(text)) for text in ("Hello", "Why? \u2028 é", "And then?")]
    assert "".join(session.say("And then?")) == texts[2]
    session.undo()
    session.undo()
    assert "".join(session.say("Why? \u2028 é")) == texts[1]


def test_a_state_that_was_broken_off_is_not_written(
    saved: tuple[Path, Session], identity: Identity, tmp_path: Path
) -> None:
    talk = saved[1].talk()
    assert isinstance(talk.snapshot.state, State)
    talk.snapshot.state.is_broken_off = True
    with pytest.raises(StateError, match="in the middle of a token"):
        save_talk(tmp_path / "a.state", talk, identity=identity)
    assert not list(tmp_path.iterdir())


def test_the_next_token_needs_no_reading(
    engine: Engine, folder: Path, identity: Identity, tmp_path: Path
) -> None:
    tokenizer = open_tokenizer(folder)
    speaker = Speaker(engine, num_ids=tokenizer.vocab_size)
    one = Session(speaker, head=speaker, tokenizer=tokenizer, settings=DRAWN, limits=Limits(max_tokens=6))
    list(one.complete("Once " * 30))
    one._stream.catch_up()
    save_talk(tmp_path / "a.state", one.talk(), identity=identity)
    rest = "".join(one.complete(""))
    other = Session(speaker, head=speaker, tokenizer=tokenizer, settings=DRAWN, limits=Limits(max_tokens=6))
    other.resume(restored_talk(open_state(tmp_path / "a.state"), engine, identity=identity))
    assert "".join(other.complete("")) == rest
    assert other.last is not None
    assert other.last.timings.prompt_tokens == 0


def test_another_model_tokenizer_or_template_is_refused_and_both_are_named(
    saved: tuple[Path, Session], identity: Identity
) -> None:
    state = open_state(saved[0])
    for field, what in (("model", "model"), ("tokenizer", "tokenizer"), ("template", "chat template")):
        digest = "f" * 64
        other = replace(identity, name="another", **{field: digest})
        with pytest.raises(StateError) as caught:
            check_belongs(state, other)
        mine = str(getattr(identity, field))[:12]
        assert f"with the {what} {mine}… of 'micro'" in caught.value.message
        assert f"this is the {what} {digest[:12]}… of 'another'" in caught.value.message
    with pytest.raises(StateError, match=r"adapters none, and here are abc"):
        check_belongs(state, replace(identity, adapters=("abc",)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_in_a_file_is_noticed(
    saved: tuple[Path, Session], tmp_path: Path, data: st.DataObject
) -> None:
    whole = saved[0].read_bytes()
    sort = data.draw(st.sampled_from(["flip", "cut", "grow", "none"]))
    damaged = bytearray(whole)
    if sort == "flip":
        # Half of them in the table and the page of JSON, which are a small part of the file.
        place = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 3000)))
        damaged[place] ^= data.draw(st.integers(1, 255))
    elif sort == "cut":
        del damaged[data.draw(st.integers(0, len(whole) - 1)) :]
    elif sort == "grow":
        damaged += b"\0" * data.draw(st.integers(1, 100))
    path = tmp_path / "damaged.state"
    path.write_bytes(damaged)
    found, refusal = opened_or_refused(path)
    right = open_state(saved[0])
    if refusal is not None:
        assert sort != "none"
        assert str(path) in refusal.message
    if found is not None:
        assert found.about == right.about
        assert bytes(found.state) == bytes(right.state)
        assert found.ids == right.ids
        # Between sections are zeros that say nothing.
        assert sort in ("none", "flip")


def opened_or_refused(path: Path) -> tuple[SavedState | None, StateError | None]:
    try:
        return open_state(path), None
    except StateError as error:
        return None, error


def rewritten(path: Path, to: Path, **changed: bytes) -> Path:
    """The same file with other sections, and right checksums."""
    sections: Mapping[str, bytes] = {name: bytes(data) for name, data in read_sections(path).items()}
    write_sections(to, {**sections, **changed})
    return to


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"position": ', '"position": 1', "tokens and holds"),
        ('"num_read": ', '"num_read": 9', "has read 9"),
        ('"rounds": 2', '"rounds": 3', "for 3 rounds"),
        ('"rounds": 2', '"rounds": 0', "at least 1"),
        ('"rounds": 2', '"rounds": 2.5', "rounds"),
        ('"temperature": 0.9', '"temperature": -1', "temperature -1"),
        ('"seed": "18', '"seed": "x18', "is no number"),
        ('"seed": "18', '"seed": "98', "seed 98"),
        ('"5=off"', '"5=maybe"', "logit bias '5=maybe'"),
        ('"5=off"', '"50000=off"', "logit bias on token 50000"),
        ('"start": 0', '"start": 4000', "not in order"),
        ('"is_stale"', '"is_stael"', "is_stael"),
        ('"turns"', '"turns": 1, "turns"', "turns"),
    ],
)
def test_a_page_that_lies_is_refused(
    engine: Engine,
    identity: Identity,
    saved: tuple[Path, Session],
    tmp_path: Path,
    old: str,
    new: str,
    message: str,
) -> None:
    about = bytes(read_sections(saved[0])["about"])
    assert old.encode() in about
    changed = about.replace(old.encode(), new.encode(), 1)
    path = rewritten(saved[0], tmp_path / "x.state", about=changed)
    with pytest.raises(StateError, match=message):
        restored_talk(open_state(path), engine, identity=identity)


def test_states_with_numbers_that_are_none_are_refused(
    engine: Engine, identity: Identity, saved: tuple[Path, Session], tmp_path: Path
) -> None:
    right = read_sections(saved[0])
    rng = np.random.default_rng(0)
    places = [place for (_, number, _), place in engine.layout.places.items() if number < 2]
    for placed in places:
        arena = np.frombuffer(bytes(right["state"]), dtype=np.uint8).copy()
        values = placed.view(arena).reshape(-1)
        if values.dtype == np.float32:
            values[rng.integers(values.size)] = rng.choice([np.nan, np.inf])
        elif values.dtype == np.int64:
            values[0] = rng.choice([-1, 10**9])
        else:
            continue
        path = rewritten(saved[0], tmp_path / "x.state", state=arena.tobytes())
        with pytest.raises(StateError, match=placed.field.name):
            restored_talk(open_state(path), engine, identity=identity)
    arena = np.frombuffer(bytes(right["state"]), dtype=np.uint8).copy()
    arena[0] ^= 1
    for name, data, message in (
        ("state", arena.tobytes(), "position"),
        ("state", arena.tobytes()[:-64], "bytes for 2 rounds"),
        ("ids", b"\xff" * len(right["ids"]), "a token 4294967295"),
        ("outlook", b"short", "an outlook of 5 bytes"),
    ):
        path = rewritten(saved[0], tmp_path / "x.state", **{name: data})
        with pytest.raises(StateError, match=message):
            restored_talk(open_state(path), engine, identity=identity)


def test_what_is_no_state_is_refused(tmp_path: Path, saved: tuple[Path, Session]) -> None:
    other = tmp_path / "x.state"
    for data, message in (
        (b"", "is empty"),
        (b"{}", "is no saved state"),
        (b"CHIMERA.STATE", "no saved state"),
    ):
        other.write_bytes(data)
        with pytest.raises(StateError, match=message):
            open_state(other)
    with pytest.raises(StateError, match="there is no file"):
        open_state(tmp_path / "none.state")
    newer = bytearray(saved[0].read_bytes())
    newer[16] = 2
    other.write_bytes(newer)
    with pytest.raises(StateError, match="version 2, and this program reads version 1"):
        open_state(other)
    table = struct.pack("<16sQQII", b"about", 0, 10, 0, 0)
    other.write_bytes(struct.pack("<16sIIII", b"CHIMERA.STATE", 1, 1, zlib.crc32(table), 0) + table)
    with pytest.raises(StateError, match="the place of the section 'about'"):
        open_state(other)


def test_two_talks_are_compared(
    engine: Engine, folder: Path, identity: Identity, saved: tuple[Path, Session], tmp_path: Path
) -> None:
    session = begun(engine, folder)
    session.resume(restored_talk(open_state(saved[0]), engine, identity=identity))
    common = session.position
    talks: list[Talk] = []
    for message in ("And?", "But?"):
        fork = begun(engine, folder)
        fork.resume(session.talk(), settings=replace(DRAWN, seed=len(talks)))
        list(fork.say(message))
        talks.append(fork.talk())
        save_talk(tmp_path / f"{len(talks)}.state", fork.talk(), identity=identity)
    found = compared(open_state(tmp_path / "1.state"), open_state(tmp_path / "2.state"))
    assert found.num_common >= common
    for rest, talk in zip(found.rests, talks, strict=True):
        assert list(rest) == list(talk.snapshot.ids)[found.num_common :]
    assert found.unlike == ("draws",)
    same = compared(open_state(tmp_path / "1.state"), open_state(tmp_path / "1.state"))
    assert (same.unlike, [*map(len, same.rests)]) == ((), [0, 0])


def test_who_is_killed_while_saving_leaves_the_old_file_or_the_new_one() -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--count", "40", "--kilobytes", "256"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.fullmatch(r"40 kills: (\d+) whole, (\d+) lost, (\d+) met a save\n", told)
    assert found is not None, told
    assert (found[1], found[2]) == ("40", "0")
    assert int(found[3]) > 0
