"""Many answers at once: each is what it would be alone, and each ends alone."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ModelError, UsageError
from configs.text.tokenizer import Tokenizer, open_tokenizer
from runtime.answer import Answer
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.sampling import SamplingSettings
from runtime.session import Session
from runtime.streams.request import Request, Ticket
from runtime.streams.scheduler import Scheduler, Watchdog
from runtime.telling import Limits
from tests.runtime.cli.talking import make_model

DRAWN = SamplingSettings(temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=12)
SHORT = Limits(max_tokens=14)
NUM_STREAMS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return open_tokenizer(folder)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine.open(folder, num_threads=2, num_streams=NUM_STREAMS, slice_tokens=16) as opened:
        yield opened


@pytest.fixture(scope="module")
def alone(folder: Path) -> Iterator[Engine]:
    with Engine.open(folder, num_threads=1) as opened:
        yield opened


def scheduler_of(engine: Engine, tokenizer: Tokenizer, **given: Any) -> Scheduler:
    assert tokenizer.eos is not None
    return Scheduler(engine, tokenizer=tokenizer, ends=frozenset({tokenizer.eos}), **given)


def single(alone: Engine, tokenizer: Tokenizer, text: str, sampling: SamplingSettings) -> Answer:
    """The answer of a session, which knows nothing of schedulers."""
    speaker = Speaker(alone, num_ids=tokenizer.vocab_size)
    session = Session(speaker, head=speaker, tokenizer=tokenizer, settings=sampling, limits=SHORT)
    list(session.complete(text))
    assert session.last is not None
    return session.last


def request_for(tokenizer: Tokenizer, text: str, **given: Any) -> Request:
    asked: dict[str, Any] = {"settings": DRAWN, "limits": SHORT, "is_continued": True} | given
    return Request(ids=[tokenizer.eos or 0, *tokenizer.encode(text)], **asked)


TEXTS = ["Once", "The wrapper " * 9, "def", "A word and another", "indent", "lines of text " * 20, "if not"]


@settings(max_examples=6)
@given(order=st.permutations(range(len(TEXTS))), joins=st.lists(st.integers(0, 6), min_size=7, max_size=7))
def test_answers_are_those_of_single_runs(
    engine: Engine, alone: Engine, tokenizer: Tokenizer, order: Sequence[int], joins: list[int]
) -> None:
    with scheduler_of(engine, tokenizer) as scheduler:
        tickets: dict[int, Ticket] = {}
        for number, wait in zip(order, joins, strict=True):
            sampling = replace(DRAWN, seed=number, temperature=0.0 if number == 3 else 0.9)
            tickets[number] = scheduler.submit(request_for(tokenizer, TEXTS[number], settings=sampling))
            for _ in range(wait):
                scheduler.step()
        scheduler.run()
        for number, ticket in tickets.items():
            right = single(alone, tokenizer, TEXTS[number], ticket.request.settings)
            found = ticket.result()
            assert (found.ids, found.text, found.finish) == (right.ids, right.text, right.finish)
            assert "".join(ticket) == found.text
        assert (scheduler.num_running, scheduler.num_waiting, scheduler.num_bytes) == (0, 0, 0)


def test_a_stream_that_fails_fails_alone(engine: Engine, alone: Engine, tokenizer: Tokenizer) -> None:
    def throw(piece: str) -> None:
        raise OSError("the reader has gone")

    everything = {token: float("-inf") for token in range(tokenizer.vocab_size)}
    with scheduler_of(engine, tokenizer) as scheduler:
        good = [scheduler.submit(request_for(tokenizer, text)) for text in TEXTS[:2]]
        gone = scheduler.submit(request_for(tokenizer, "Once", on_text=throw))
        stuck = scheduler.submit(
            request_for(tokenizer, "Once", settings=replace(DRAWN, logit_bias=everything))
        )
        late = scheduler.submit(request_for(tokenizer, TEXTS[4]))
        scheduler.run()
        with pytest.raises(OSError, match="the reader has gone"):
            gone.result()
        with pytest.raises(OSError, match="the reader has gone"):
            list(gone)
        with pytest.raises(UsageError, match="every token is forbidden"):
            stuck.result()
        for ticket, text in zip([*good, late], [*TEXTS[:2], TEXTS[4]], strict=True):
            assert ticket.result().ids == single(alone, tokenizer, text, DRAWN).ids


def test_a_state_gone_bad_ends_its_own_stream(engine: Engine, alone: Engine, tokenizer: Tokenizer) -> None:
    with scheduler_of(engine, tokenizer) as scheduler:
        good, bad = (scheduler.submit(request_for(tokenizer, text)) for text in TEXTS[:2])
        for _ in range(10):
            scheduler.step()
        spoilt = scheduler._places[1]
        assert spoilt is not None
        assert spoilt.ticket is bad
        spoilt.stream.state.arena.view(np.float32)[16:] = np.nan  # pyright: ignore[reportAttributeAccessIssue]
        scheduler.run()
        with pytest.raises(ModelError, match=r"is no number|is nan"):
            bad.result()
        assert good.result().ids == single(alone, tokenizer, TEXTS[0], DRAWN).ids


def test_limits_and_callers_end_a_stream_with_a_reason(engine: Engine, tokenizer: Tokenizer) -> None:
    endless = Limits(max_tokens=10**6)
    never = replace(DRAWN, logit_bias={tokenizer.eos or 0: float("-inf")})
    with scheduler_of(engine, tokenizer) as scheduler:
        cancelled = scheduler.submit(request_for(tokenizer, "Once", limits=endless, settings=never))
        timed = scheduler.submit(
            request_for(tokenizer, "Once", limits=replace(endless, max_seconds=1e-9), settings=never)
        )
        room = engine.state_bytes() + 4 * 40
        full = scheduler.submit(
            request_for(tokenizer, "Once", limits=replace(endless, max_bytes=room), settings=never)
        )
        unseen = scheduler.submit(request_for(tokenizer, "Once"))
        unseen.cancel()
        for _ in range(60):
            scheduler.step()
        assert not cancelled.is_done
        said = len("".join(cancelled._pieces.get() for _ in range(3)))
        cancelled.cancel()
        scheduler.run()
        assert cancelled.result().finish == "cancelled"
        assert len(cancelled.result().text) > said
        assert timed.result().finish == "time"
        assert full.result().finish == "memory"
        assert full.result().position == 41
        assert unseen.result().finish == "cancelled"
        assert unseen.result().text == ""


def test_a_watchdog_ends_what_cannot_keep_up(engine: Engine, tokenizer: Tokenizer) -> None:
    dog = Watchdog(tick_ms=0, max_overruns=3)
    with scheduler_of(engine, tokenizer, watchdog=dog) as scheduler:
        ticket = scheduler.submit(request_for(tokenizer, "Once"))
        scheduler.run()
        assert (ticket.result().finish, len(ticket.result().ids)) == ("watchdog", 5)


def test_memory_is_that_of_the_streams_that_have_a_place(engine: Engine, tokenizer: Tokenizer) -> None:
    with scheduler_of(engine, tokenizer) as scheduler:
        for _ in range(3 * NUM_STREAMS):
            scheduler.submit(request_for(tokenizer, "Once upon"))
        assert scheduler.num_bytes == 0
        scheduler.step()
        assert (scheduler.num_running, scheduler.num_waiting) == (NUM_STREAMS, 2 * NUM_STREAMS)
        ids = 4 * NUM_STREAMS * (len(tokenizer.encode("Once upon")) + 2)
        assert scheduler.num_bytes <= NUM_STREAMS * engine.state_bytes() + ids


def test_a_stream_that_is_kept_goes_on_where_it_was(engine: Engine, tokenizer: Tokenizer) -> None:
    with scheduler_of(engine, tokenizer) as scheduler:
        whole = scheduler.submit(request_for(tokenizer, "Once", limits=Limits(max_tokens=12)))
        first = scheduler.submit(
            request_for(tokenizer, "Once", limits=Limits(max_tokens=5), keeps_stream=True)
        )
        scheduler.run()
        assert first.stream is not None
        ids = list(first.result().ids)
        for count in (4, 3):
            snapshot = first.stream.snapshot()
            first = scheduler.submit(
                Request(
                    ids=[], begin=snapshot, settings=DRAWN, limits=Limits(max_tokens=count), keeps_stream=True
                )
            )
            scheduler.run()
            assert first.stream is not None
            ids += first.result().ids
        assert ids == list(whole.result().ids)


def test_threads_submit_while_another_steps(engine: Engine, alone: Engine, tokenizer: Tokenizer) -> None:
    found: dict[str, Answer] = {}

    def ask(text: str) -> None:
        ticket = scheduler.submit(request_for(tokenizer, text))
        assert "".join(ticket) == ticket.result(60).text
        found[text] = ticket.result()

    with scheduler_of(engine, tokenizer) as scheduler:
        scheduler.start()
        threads = [threading.Thread(target=ask, args=(text,)) for text in TEXTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    for text in TEXTS:
        assert found[text].ids == single(alone, tokenizer, text, DRAWN).ids
    with pytest.raises(UsageError, match="is closed"):
        scheduler.submit(request_for(tokenizer, "Once"))


def test_what_cannot_be_answered_is_refused(engine: Engine, tokenizer: Tokenizer) -> None:
    with scheduler_of(engine, tokenizer) as scheduler:
        for request, message in (
            (Request(ids=[]), "nothing to go on from"),
            (Request(ids=[10**6]), "not of this model's vocabulary"),
            (Request(ids=[1], settings=SamplingSettings(logit_bias={10**6: 1.0})), "logit bias on token"),
        ):
            with pytest.raises(UsageError, match=message):
                scheduler.submit(request)
