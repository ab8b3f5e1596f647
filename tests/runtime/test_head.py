"""A screened head chooses what the full head does, and steps aside where it is of no use."""

import dataclasses
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.load import preset
from quant.activations import QuantizedActivations, quantize_activations
from quant.embedding import RowWeights, quantize_rows
from quant.packing import pack_rows
from runtime import head
from runtime.building.workspace import Int8Rows
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.program import Step
from runtime.random_model import random_b158
from runtime.ranking import best_places
from runtime.sampler import Sampler
from runtime.sampling import FORBIDDEN, SamplingSettings
from runtime.stream import Stream
from tests.quant.kernels import fast

Floats = NDArray[np.float32]

NUM_IDS = 4999
IDS = [int(token) for token in np.random.default_rng(0).integers(0, 5000, 40)]

SCREENABLE = [
    SamplingSettings(temperature=0),
    SamplingSettings(temperature=0.8, top_k=20, seed=3),
    SamplingSettings(temperature=0.8, top_k=20, top_p=0.7, min_p=0.1, seed=4),
    SamplingSettings(temperature=0.3, min_p=0.2, seed=5),
    SamplingSettings(temperature=0, repetition_penalty=1.3, logit_bias={7: 3.0, 9: FORBIDDEN, 11: -1.0}),
    SamplingSettings(temperature=0.5, top_k=5, repetition_penalty=0.8, logit_bias={4000: 2.0}),
    SamplingSettings(temperature=1.5, top_k=5000),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model there is, with a vocabulary that is worth a look."""
    path = tmp_path_factory.mktemp("head") / "model.b158"
    random_b158(dataclasses.replace(preset("micro"), vocab_size=5000), path, seed=2)
    return path


@pytest.fixture
def engine(model: Path) -> Iterator[Engine]:
    with Engine.open(model, num_threads=2) as engine:
        yield engine


def text(engine: Engine, asked: SamplingSettings, **options: Any) -> tuple[list[int], Speaker]:
    """The ids that come after a prompt."""
    speaker = Speaker(engine, num_ids=NUM_IDS, **options)
    sampler = Sampler(asked, num_ids=NUM_IDS, forbidden=frozenset({3}))
    speaker.expect(all_logits=asked.needs_all)
    stream = Stream(speaker)
    stream.accept(IDS)
    for _ in range(24):
        stream.catch_up()
        stream.accept([sampler.choose(speaker, recent=stream.recent(256), position=stream.position).token])
    return list(stream.ids(len(IDS))), speaker


@pytest.mark.parametrize("asked", SCREENABLE, ids=range(len(SCREENABLE)))
def test_a_screen_changes_no_choice(engine: Engine, asked: SamplingSettings):
    plain, without = text(engine, asked, screen="off")
    found, speaker = text(engine, asked, screen="always")
    assert found == plain
    assert without.num_screened == 0
    # Five thousand of 4999 are not there, so nothing is left out.
    assert speaker.num_screened == (0 if asked.top_k == 5000 else 24)


def test_an_engine_outlives_a_speaker(engine: Engine):
    plain, _ = text(engine, SCREENABLE[0], screen="off")
    text(engine, SCREENABLE[0], screen="always")
    gc.collect()
    # The head that was set last is still the speaker's; nothing of it may be gone.
    room = [np.full(5024, 7, dtype=np.float32) for _ in range(64)]
    state = engine.new_state()
    for token in IDS:
        engine.step(state, token)
    assert all((array == 7).all() for array in room)
    assert text(engine, SCREENABLE[0], screen="off")[0] == plain


def test_what_needs_all_logits_is_not_screened(engine: Engine):
    asked = SamplingSettings(temperature=0.8, top_p=0.9, seed=3)
    plain, _ = text(engine, asked, screen="off")
    found, speaker = text(engine, asked, screen="always")
    assert found == plain
    assert speaker.num_screened == 0


def contract(speaker: Speaker, changed: Sequence[int], *, count: int, below_best: float) -> None:
    """The candidates are a superset of what was asked for, by the full head."""
    ids = speaker.candidates(np.array(changed, dtype=np.int64), count=count, below_best=below_best)
    assert ids is not None
    selected = speaker.selected(ids).copy()
    logits = speaker.logits()
    assert (selected == logits[ids]).all(), "chosen rows have the full head's bits"
    others = np.delete(np.arange(NUM_IDS), changed)
    worst = logits[others[best_places(logits[others], count)]].min()
    wanted = np.flatnonzero(logits >= worst - np.float32(below_best))
    assert np.isin(wanted, ids).all()
    assert (np.diff(ids) > 0).all()


def test_candidates_hold_all_that_can_win(engine: Engine):
    speaker = Speaker(engine, num_ids=NUM_IDS, screen="always")
    speaker.expect(all_logits=False)
    state = speaker.begun(None)
    speaker.read(state, IDS, exit_threshold=0.0)
    best = int(engine.logits()[:NUM_IDS].argmax())
    for changed in ([], [best], [0, best, 4998]):
        for count, below in ((1, 0.0), (1, 0.05), (50, 0.0)):
            contract(speaker, changed, count=count, below_best=below)
    assert speaker.candidates(np.arange(NUM_IDS - 1), count=2, below_best=0.0) is None


class HeadAlone:
    """An engine that has read a token already, and of which nothing is left but the head."""

    def __init__(self, rows: RowWeights, acts: QuantizedActivations) -> None:
        self.config = SimpleNamespace(vocab_size=len(rows.codes))
        self.experts = None
        self.head_rows = pack_rows(rows)
        self.acts = acts
        self.hidden = Int8Rows(
            codes=acts.codes, scales=acts.scales, neg_sums=acts.neg_sums, width=acts.num_inputs
        )
        self.tails: list[Sequence[Sequence[Step]] | None] = []

    def set_head(self, groups: Sequence[Sequence[Step]] | None) -> None:
        self.tails.append(groups)

    def run_head(self) -> None:
        groups = self.tails[-1]
        assert groups is not None
        ((step,),) = groups
        table = np.zeros(step.num_places, dtype=np.int64)
        for place, value in step.arguments.items():
            assert isinstance(value, int)
            table[place] = value
        step.kernel(table.ctypes.data, 0, step.units)

    def logits(self) -> Floats:
        return fast.rows_matmul(self.head_rows, self.acts)[0]


def head_alone(rows: RowWeights, token: Floats, **given: Any) -> tuple[HeadAlone, Speaker]:
    engine = HeadAlone(rows, quantize_activations(token[None]))
    return engine, Speaker(cast(Engine, engine), **given)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_that_a_copy_cannot_tell_apart_are_all_looked_at(data: st.DataObject):
    """Rows that differ in what 4 bits leave out, ties among them, and tokens along the difference."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    num_rows, num_inputs = data.draw(st.integers(1, 90)), data.draw(st.sampled_from([1, 64, 130]))
    base = rng.integers(-100, 101, num_inputs)
    spread = data.draw(st.sampled_from([0, 1, 6, 20]))
    codes = (base + rng.integers(-spread, spread + 1, (num_rows, num_inputs))).astype(np.int8)
    rows = RowWeights(codes=codes, scales=np.full(num_rows, 0.01, dtype=np.float32), bits=8)
    token = np.sign(codes[0] - base + 0.1 * rng.standard_normal(num_inputs)).astype(np.float32)
    engine, speaker = head_alone(rows, token, screen="always")
    speaker.expect(all_logits=False)
    logits = engine.logits()
    changed = np.unique(rng.integers(0, num_rows, data.draw(st.integers(0, 5))))
    others = np.delete(np.arange(num_rows), changed)
    count = data.draw(st.integers(1, 8))
    below = data.draw(st.sampled_from([0.0, 0.5]))
    ids = speaker.candidates(changed, count=count, below_best=below)
    if others.size < count:
        assert ids is None
        return
    assert ids is not None
    worst = np.sort(logits[others])[others.size - count]
    assert np.isin(np.flatnonzero(logits >= worst - np.float32(below)), ids).all()


def test_a_screen_that_spares_nothing_steps_aside(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head, "LEAST_BYTES", 1000)
    monkeypatch.setattr(head, "CHOICES_BEFORE", 5)
    alike = np.full((2000, 64), 50, dtype=np.int8)
    rows = RowWeights(codes=alike, scales=np.ones(2000, dtype=np.float32), bits=8)
    engine, speaker = head_alone(rows, np.ones(64, dtype=np.float32))
    none = np.empty(0, dtype=np.int64)
    for _ in range(5):
        speaker.expect(all_logits=False)
        assert speaker.candidates(none, count=1, below_best=0.0) is None
    assert engine.tails == [None], "no screen before it is known to be used"
    tries: list[int] = []
    speaker.expect(all_logits=False)
    for number in range(600):
        if engine.tails[-1] is not None:
            tries.append(number)
        assert speaker.candidates(none, count=1, below_best=0.0) is None
    rests = np.diff(tries).tolist()
    assert rests == [2, 3, 5, 9, 17, 33, 65, 129, 257][: len(rests)]
    assert len(rests) >= 7
    assert speaker.num_screened == 0


def test_a_screen_that_spares_much_is_used_from_the_next_answer_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head, "LEAST_BYTES", 1000)
    monkeypatch.setattr(head, "CHOICES_BEFORE", 5)
    rng = np.random.default_rng(0)
    codes = rng.integers(-20, 21, (2000, 64)).astype(np.int8)
    codes[1234] = 100
    rows = RowWeights(codes=codes, scales=np.ones(2000, dtype=np.float32), bits=8)
    engine, speaker = head_alone(rows, np.ones(64, dtype=np.float32))
    none = np.empty(0, dtype=np.int64)
    found: list[Any] = []
    for _ in range(3):
        speaker.expect(all_logits=False)
        found += [speaker.candidates(none, count=1, below_best=0.0) for _ in range(5)]
    assert [ids is None for ids in found] == [True] * 5 + [False] * 10
    assert found[5].tolist() == [1234]
    speaker.expect(all_logits=True)
    assert engine.tails[-1] is None


def test_switched_on_it_is_used_at_once_and_still_steps_aside():
    none = np.empty(0, dtype=np.int64)
    codes = np.random.default_rng(0).integers(-20, 21, (2000, 64)).astype(np.int8)
    codes[1234] = 100
    rows = RowWeights(codes=codes, scales=np.ones(2000, dtype=np.float32), bits=8)
    engine, speaker = head_alone(rows, np.ones(64, dtype=np.float32), screen="on")
    speaker.expect(all_logits=False)
    assert speaker.candidates(none, count=1, below_best=0.0) is not None
    # Among so many best, nearly every block of rows has one.
    assert speaker.candidates(none, count=400, below_best=0.0) is None
    assert engine.tails[-1] is None


def test_a_head_of_4_bits_is_never_screened():
    rows = quantize_rows(np.ones((40, 64), dtype=np.float32), bits=4)
    engine, speaker = head_alone(rows, np.ones(64, dtype=np.float32), screen="always")
    speaker.expect(all_logits=False)
    assert speaker.candidates(np.empty(0, dtype=np.int64), count=1, below_best=0.0) is None
    assert engine.tails == [None]
