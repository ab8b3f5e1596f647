"""Soft and deadline: the shared expert stands in for what is away, is counted, and goes when it comes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from chronos_moe.store.manifest import Place
from chronos_moe.store.reading import SIMULATED_MS
from quant.container import open_b158
from quant.container_writer import B158Writer
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from tests.runtime.experts.conftest import Both, asked, read

LONG_S = 60


def test_soft_waits_for_nothing_and_recovers(both: Both, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SIMULATED_MS, "300")
    with Engine.open(
        both.packed, num_threads=2, experts=ExpertsAsked(on_miss="soft", predictor="none")
    ) as engine:
        assert engine.experts is not None
        found, _ = read(engine, both.ids[:42])
        report = engine.experts.report()
        assert not np.array_equal(found, both.expected[:3])
        assert report["stand_ins"] == report["misses"] + report["late_hits"] > 0
        assert report["stall_ms"] == 0
        engine.experts.load_all()
        again, _ = read(engine, both.ids)
        assert np.array_equal(again, both.expected)
        assert engine.experts.report()["stand_ins"] == report["stand_ins"]


@contextmanager
def nothing_comes(engine: Engine) -> Iterator[None]:
    """No read ends before this does."""
    assert engine.experts is not None
    store = engine.experts.store
    assert store is not None
    gate, before = threading.Event(), store._reader

    class Gated:
        def read(self, place: Place, into: memoryview) -> None:
            gate.wait()
            before.read(place, into)

        def close(self) -> None:
            before.close()

    store.read_by(Gated())
    try:
        yield
    finally:
        gate.set()


def alike(path: Path, whole: Path, *, layer: str = "", expert: str = "") -> Path:
    """The model with the shared expert in the place of one or of all."""
    with open_b158(whole) as file:
        specs = list(file.tensors.values())
        with B158Writer(path, tensors=specs, config=file.config) as writer:
            for spec in specs:
                before, _, after = spec.name.partition(".experts.")
                number, _, rest = after.partition(".")
                is_meant = after and (not layer or (before, number) == (f"layers.{layer}.ffn", expert))
                writer.write(spec.name, file.tensor(f"{before}.shared.{rest}" if is_meant else spec.name))
    return path


def test_one_away_is_the_shared_expert_in_its_place_and_in_no_other(both: Both, tmp_path: Path):
    with Engine.open(
        both.packed, num_threads=1, experts=ExpertsAsked(on_miss="soft", predictor="none")
    ) as engine:
        assert engine.experts is not None
        store = engine.experts.store
        assert store is not None
        layers, count = engine.config.backbone.moe.layers, store.ledger.num_experts
        for row in range(len(layers)):
            away = store.demand(row, [expert for expert in range(count) if (row, expert) != (0, 3)])
            assert store.wait(away.values(), timeout_s=LONG_S)
        with nothing_comes(engine):
            found, _ = read(engine, both.ids[:44])
        stand_ins = engine.experts.report()["stand_ins"]
        assert stand_ins == store.ledger.visits[3] > 0
    whole = alike(tmp_path / "model.b158", both.whole, layer=str(layers[0]), expert="3")
    with Engine.open(whole, num_threads=1) as engine:
        expected, _ = read(engine, both.ids[:44])
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, both.expected[:5])


def test_all_away_is_the_shared_expert_in_their_place(both: Both, tmp_path: Path):
    """As in a model whose experts all are the shared one: y = shared + Σ p · shared."""
    with Engine.open(alike(tmp_path / "model.b158", both.whole), num_threads=1) as engine:
        expected, _ = read(engine, both.ids[:44])
    with Engine.open(both.packed, num_threads=1, experts=asked(both, 3, on_miss="soft")) as engine:
        with nothing_comes(engine):
            found, _ = read(engine, both.ids[:44])
        assert engine.experts is not None
        report = engine.experts.report()
    assert report["stand_ins"] == report["visits"]
    assert np.array_equal(found, expected)


def test_a_deadline_far_away_is_as_strict(both: Both):
    with Engine.open(
        both.packed, num_threads=2, experts=ExpertsAsked(on_miss="deadline", deadline_ms=60_000)
    ) as engine:
        assert np.array_equal(read(engine, both.ids)[0], both.expected)
        assert engine.experts is not None
        assert engine.experts.report()["stand_ins"] == 0


def test_a_deadline_is_kept_by_each_token(both: Both, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SIMULATED_MS, "200")
    with Engine.open(
        both.packed,
        num_threads=2,
        experts=ExpertsAsked(on_miss="deadline", deadline_ms=2, predictor="none"),
    ) as engine:
        assert engine.experts is not None
        state = engine.new_state()
        for token in both.ids[:3]:
            engine.step(state, int(token))
        report = engine.experts.report()
    assert report["stand_ins"] > 0
    # A token may wait for 2 ms in all; how late its thread is woken is the system's affair.
    assert 0 < report["stall_ms"] < 3 * 200
