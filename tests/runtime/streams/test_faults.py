"""One stream's failure among several: it ends with its own error, and the others say what they would have."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from configs.errors import DiskError, UsageError
from configs.load import build_config
from configs.text.tokenizer import Tokenizer, open_tokenizer
from exports.pack_experts import PackedExperts, pack_experts
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.random_model import random_b158
from runtime.sampling import SamplingSettings
from runtime.state import State
from runtime.streams.request import Request, Ticket
from runtime.streams.scheduler import Scheduler
from runtime.telling import Limits
from tests.runtime.cli.talking import make_tokenizer

MANY = {"backbone": {"moe": {"enabled": True, "layers": [1], "n_routed_experts": 64}}}
"""So many experts that short texts visit few of them."""
LAYER = 1
DRAWN = SamplingSettings(temperature=0.9, seed=12)
SHORT = Limits(max_tokens=5)
TEXTS = ("Once", "def", "if", "The")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a text is gone on with by itself."""

    ids: tuple[int, ...]
    state: bytes
    visited: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model with its experts on disk, and what it says where nothing fails."""

    packed: PackedExperts
    tokenizer: Tokenizer
    said: dict[str, Said]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    whole = tmp_path_factory.mktemp("whole") / "model.b158"
    random_b158(build_config({"preset": "micro", **MANY}, source="test"), whole, seed=5)
    packed = pack_experts(whole, tmp_path_factory.mktemp("model") / "packed")
    make_tokenizer(packed.folder)
    tokenizer = open_tokenizer(packed.folder)
    found = Model(packed=packed, tokenizer=tokenizer, said={})
    for text in TEXTS:
        with opened(found, packed.folder, num_streams=1) as engine, scheduler_of(engine, found) as scheduler:
            ticket = scheduler.submit(request_for(found, text))
            scheduler.run()
            visited = frozenset(np.flatnonzero(engine.expert_visits()[LAYER]).tolist())
            found.said[text] = Said(ids=ticket.result().ids, state=state_of(ticket), visited=visited)
    return found


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    shutil.copytree(model.packed.folder, tmp_path / "packed")
    return tmp_path / "packed"


def opened(model: Model, folder: Path, *, num_streams: int = len(TEXTS)) -> Engine:
    room = 8 * model.packed.manifest.form.block_bytes
    asked = ExpertsAsked(predictor="none", is_checked=True, memory_bytes=room)
    return Engine.open(folder, num_threads=1, num_streams=num_streams, experts=asked)


def scheduler_of(engine: Engine, model: Model) -> Scheduler:
    assert model.tokenizer.eos is not None
    return Scheduler(engine, tokenizer=model.tokenizer, ends=frozenset({model.tokenizer.eos}))


def request_for(model: Model, text: str) -> Request:
    ids = [model.tokenizer.eos or 0, *model.tokenizer.encode(text)]
    return Request(ids=ids, settings=DRAWN, limits=SHORT, is_continued=True, keeps_stream=True)


def state_of(ticket: Ticket) -> bytes:
    assert ticket.stream is not None
    state = ticket.stream.state
    assert isinstance(state, State)
    return state.arena.tobytes()


def assert_as_alone(model: Model, ticket: Ticket, text: str) -> None:
    assert ticket.result().ids == model.said[text].ids
    assert state_of(ticket) == model.said[text].state


def one_with_an_expert_of_its_own(model: Model) -> tuple[str, int]:
    """A text, and an expert that it visits and no other text does."""
    for text, said in model.said.items():
        others = frozenset[int]().union(
            *(other.visited for name, other in model.said.items() if name != text)
        )
        if said.visited - others:
            return text, min(said.visited - others)
    raise AssertionError("all of them visit the same experts")


def spoil(model: Model, folder: Path, expert: int) -> None:
    """Write over an expert's bytes where they lie."""
    place = model.packed.manifest.places()[LAYER, expert]
    with (folder / model.packed.manifest.clusters[place.cluster].file).open("r+b") as file:
        file.seek(place.offset)
        file.write(bytes(64))


def test_an_expert_that_cannot_be_read_ends_the_stream_that_wants_it(model: Model, folder: Path):
    bad, expert = one_with_an_expert_of_its_own(model)
    spoil(model, folder, expert)
    with opened(model, folder) as engine, scheduler_of(engine, model) as scheduler:
        tickets = {text: scheduler.submit(request_for(model, text)) for text in TEXTS}
        scheduler.run()
        with pytest.raises(DiskError, match=f"expert {expert} of layer {LAYER} could not be read"):
            tickets.pop(bad).result()
        for text, ticket in tickets.items():
            assert_as_alone(model, ticket, text)
        late = scheduler.submit(request_for(model, next(iter(tickets))))
        scheduler.run()
        assert_as_alone(model, late, next(iter(tickets)))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_disk_that_is_well_again_costs_no_stream(model: Model, folder: Path, steps: int):
    path = folder / "experts-000.ctsr"
    whole = path.read_bytes()
    with opened(model, folder) as engine, scheduler_of(engine, model) as scheduler:
        tickets = {text: scheduler.submit(request_for(model, text)) for text in TEXTS}
        for _ in range(steps):
            scheduler.step()
        os.truncate(path, 4096)
        assert engine.experts is not None
        while not engine.experts.meter.failed_reads:
            assert scheduler.step()
        path.write_bytes(whole)
        scheduler.run()
        for text, ticket in tickets.items():
            assert_as_alone(model, ticket, text)


def test_a_dead_disk_ends_each_stream_by_itself_and_serving_goes_on(model: Model, folder: Path):
    path = folder / "experts-000.ctsr"
    whole = path.read_bytes()
    with opened(model, folder) as engine, scheduler_of(engine, model) as scheduler:
        os.truncate(path, 4096)
        scheduler.start()
        tickets = [scheduler.submit(request_for(model, text)) for text in TEXTS[:2]]
        for ticket in tickets:
            with pytest.raises(DiskError, match="could not be read"):
                ticket.result(60)
        path.write_bytes(whole)
        late = scheduler.submit(request_for(model, TEXTS[0]))
        assert late.result(60).ids == model.said[TEXTS[0]].ids


def test_a_state_that_no_step_takes_ends_its_own_stream(model: Model, folder: Path):
    with opened(model, folder) as engine, scheduler_of(engine, model) as scheduler:
        first = scheduler.submit(request_for(model, TEXTS[0]))
        scheduler.run()
        assert first.stream is not None
        snapshot = first.stream.snapshot()
        assert isinstance(snapshot.state, State)
        foreign = State(snapshot.state.arena, rounds=snapshot.state.rounds, digest="0" * 64)
        begun = replace(request_for(model, TEXTS[1]), begin=replace(snapshot, state=foreign))
        refused = scheduler.submit(begun)
        tickets = {text: scheduler.submit(request_for(model, text)) for text in TEXTS[1:]}
        scheduler.run()
        with pytest.raises(UsageError, match="the state is of the model 0000"):
            refused.result()
        for text, ticket in tickets.items():
            assert_as_alone(model, ticket, text)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_who_is_broken_off_in_the_middle_of_a_step_may_step_on(
    model: Model, folder: Path, raised: type[BaseException]
):
    def leave(piece: str) -> None:
        if not left:
            left.append(piece)
            raise raised

    left: list[str] = []
    with opened(model, folder) as engine, scheduler_of(engine, model) as scheduler:
        scheduler.submit(replace(request_for(model, TEXTS[0]), on_text=leave))
        tickets = {text: scheduler.submit(request_for(model, text)) for text in TEXTS[1:]}
        with pytest.raises(raised):
            scheduler.run()
        scheduler.run()
        for text, ticket in tickets.items():
            assert_as_alone(model, ticket, text)


def test_an_engine_that_was_closed_ends_all_with_a_reason(model: Model, folder: Path):
    engine = opened(model, folder)
    with scheduler_of(engine, model) as scheduler:
        tickets = [scheduler.submit(request_for(model, text)) for text in TEXTS[:2]]
        scheduler.step()
        engine.close()
        scheduler.run()
        for ticket in tickets:
            with pytest.raises(UsageError, match="closed"):
                ticket.result()
