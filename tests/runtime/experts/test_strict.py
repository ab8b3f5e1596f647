"""Strict: whatever memory experts get, a text has the bits that it has with all of them there."""

import gc
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import runtime.experts.opened as opened
import runtime.footprint as module
from chronos_moe.store.reading import SIMULATED_MS
from configs.errors import NotEnoughMemory, UsageError
from runtime.engine import Engine, Part
from runtime.experts.asked import ExpertsAsked
from runtime.experts.conductor import Conductor
from runtime.system import memory
from tests.runtime.experts.conftest import MODELS, PROMPT, Both, asked, read

WAYS: dict[str, dict[str, Any]] = {
    "as little as there can be": {"num_slots": 0},
    "half of one layer": {"num_slots": 1, "policy": "least-stale"},
    "what was last": {"num_slots": 4, "predictor": "same", "policy": "lfu"},
    "what is frequent": {"num_slots": 5, "predictor": "frequency", "num_readers": 1},
    "foresight": {"num_slots": 6, "predictor": "foresight", "reader": "buffered"},
    "neighbours": {"num_slots": 4, "predictor": "neighbours"},
    "each read checked": {"num_slots": 3, "is_checked": True, "reader": "mapped"},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_text_and_state_are_the_same_bits(models: Callable[[str], Both], name: str, way: str):
    num_threads = 1 + (list(MODELS).index(name) + list(WAYS).index(way)) % 2
    both, more = models(name), dict(WAYS[way])
    with Engine.open(both.whole, num_threads=1) as whole:
        least = whole.config.backbone.moe.num_experts_per_tok
    num_slots = least + more.pop("num_slots")
    with Engine.open(both.packed, num_threads=num_threads, experts=asked(both, num_slots, **more)) as engine:
        found, state = read(engine, both.ids)
        assert engine.experts is not None
        report = engine.experts.report()
    assert np.array_equal(found, both.expected)
    assert state == both.state
    assert report["slots"] == min(num_slots, report["experts"])
    assert report["hits"] + report["late_hits"] + report["misses"] == report["visits"] > 0
    assert report["stand_ins"] == 0
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("pages", ["normal", "random"])
def test_pages_of_mapped_files_give_the_same_bits(both: Both, pages: Any):
    with Engine.open(both.packed, num_threads=2, experts=ExpertsAsked(pages=pages)) as engine:
        found, state = read(engine, both.ids)
    assert np.array_equal(found, both.expected)
    assert state == both.state


def test_streams_side_by_side_are_as_each_alone(both: Both):
    with Engine.open(both.packed, num_threads=2, num_streams=2, experts=asked(both, 3)) as engine:
        one, other = engine.new_state(), engine.new_state()
        engine.step_together([Part(state=one, ids=both.ids[:PROMPT]), None])
        for number, token in enumerate(both.ids[PROMPT:]):
            rows = engine.step_together(
                [Part(state=one, ids=[int(token)]), Part(state=other, ids=[int(both.ids[number])])]
            )
            assert np.array_equal(rows[0], both.expected[number + 1])


def test_a_slow_disk_changes_no_bit_and_is_waited_for(both: Both, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SIMULATED_MS, "5")
    with Engine.open(both.packed, num_threads=2, experts=asked(both, 4)) as engine:
        found, _ = read(engine, both.ids[: PROMPT + 4])
        assert engine.experts is not None
        report = engine.experts.report()
    assert np.array_equal(found, both.expected[:5])
    assert report["stall_ms"] >= 5
    assert report["stalls"] > 0


def test_nothing_waits_for_what_was_all_read_before(both: Both):
    with Engine.open(both.packed, num_threads=2) as engine:
        assert engine.experts is not None
        engine.experts.load_all()
        before = engine.experts.report()
        found, _ = read(engine, both.ids)
        report = engine.experts.report()
    assert np.array_equal(found, both.expected)
    assert (before["reads"], before["stalls"]) == (report["reads"], report["stalls"])
    assert report["hit_rate"] == 1
    assert report["in_memory"] == report["experts"] == 18


def test_a_budget_smaller_than_a_token_needs_is_refused(both: Both):
    before = set(threading.enumerate())
    with pytest.raises(NotEnoughMemory, match="a token needs 2 at a time"):
        Engine.open(both.packed, experts=asked(both, 1))
    names = ("experts-", "librarian")
    assert {thread for thread in threading.enumerate() if thread.name.startswith(names)} <= before


def test_a_limit_leaves_experts_what_is_left(both: Both, monkeypatch: pytest.MonkeyPatch):
    # What the program takes in this process differs from one opening to the next.
    monkeypatch.setattr(module, "bytes_beside", lambda files: 1000)
    with Engine.open(both.packed, num_threads=1, memory_limit_bytes=2**40) as engine:
        need = engine.need()
        assert engine.experts is not None
        assert engine.experts.report()["slots"] == 18
    with pytest.raises(NotEnoughMemory, match=r"bytes for experts hold|are needed"):
        Engine.open(both.packed, num_threads=1, memory_limit_bytes=need.total_bytes - 18 * both.block_bytes)
    some = need.total_bytes - 9 * both.block_bytes
    with Engine.open(both.packed, num_threads=1, memory_limit_bytes=some) as engine:
        assert engine.experts is not None
        assert 2 <= engine.experts.report()["slots"] < 18
        assert np.array_equal(read(engine, both.ids)[0], both.expected)


def test_experts_take_no_more_than_the_machine_has_free(both: Both, monkeypatch: pytest.MonkeyPatch):
    free = replace(memory(), available_bytes=9 * both.block_bytes)
    monkeypatch.setattr(opened, "memory", lambda: free)
    for limit in (None, 2**40):
        with Engine.open(both.packed, num_threads=1, memory_limit_bytes=limit) as engine:
            assert engine.experts is not None
            assert engine.experts.report()["slots"] == 9 * 7 // 8


@pytest.mark.parametrize(
    "words",
    [
        {"on_miss": "perhaps"},
        {"on_miss": "deadline"},
        {"deadline_ms": 3.0},
        {"on_miss": "deadline", "deadline_ms": float("nan")},
        {"policy": "best"},
        {"predictor": "crystal ball"},
        {"reader": "tape"},
        {"pages": "all"},
        {"num_readers": 0},
        {"memory_bytes": -1},
    ],
)
def test_what_cannot_be_asked_is_refused(words: dict[str, Any]):
    with pytest.raises(UsageError):
        ExpertsAsked(**words)


def test_what_is_decided_ahead_is_read_ahead(models: Callable[[str], Both]):
    both = models("decided a layer ahead")
    with Engine.open(both.packed, num_threads=1, experts=asked(both, 8, predictor="decided")) as engine:
        assert engine.experts is not None
        found, _ = read(engine, both.ids)
        report = engine.experts.report()
    assert np.array_equal(found, both.expected)
    # How many come in time is the system's affair.
    assert {one["horizon"] for one in report["foreseen"]} == {0}
    for one in report["foreseen"]:
        assert one["wished"] == one["visited"] == one["both"] > 0


def test_compiled_code_waits_for_a_token_by_itself(
    models: Callable[[str], Both], monkeypatch: pytest.MonkeyPatch
):
    both = models("decided a layer ahead")

    def never(*_: object) -> None:
        raise AssertionError("nothing of Python's is needed for one token")

    with Engine.open(
        both.packed, num_threads=2, experts=asked(both, 3, predictor="decided", keeps_spans=True)
    ) as engine:
        assert engine.experts is not None
        state = engine.new_state()
        engine.prefill(state, both.ids[:PROMPT])
        before = engine.experts.report()
        assert not any(thread.name == "librarian" for thread in threading.enumerate())
        monkeypatch.setattr(Conductor, "_serve", never)
        for number, token in enumerate(both.ids[PROMPT:]):
            engine.step(state, int(token))
            assert np.array_equal(engine.logits(), both.expected[number + 1])
        report, spans = engine.experts.report(), engine.experts.meter.spans
    assert report["stalls"] > before["stalls"]
    assert report["stall_ms"] > before["stall_ms"]
    assert report["reads"] > before["reads"]
    assert report["misses"] + report["late_hits"] > before["misses"] + before["late_hits"]
    assert spans is not None
    assert {kind for kind, _, _ in spans} == {"compute", "read", "stall"}
    assert all(begin <= end for _, begin, end in spans)


def test_threads_end_with_an_engine_that_nobody_closed(both: Both):
    engine = Engine.open(both.packed, num_threads=1, experts=asked(both, 8, predictor="same"))
    mine = [thread for thread in threading.enumerate() if thread.name.startswith(("experts-", "librarian"))]
    assert mine
    del engine
    gc.collect()
    assert not any(thread.is_alive() for thread in mine)


def test_nobody_reads_ahead_where_all_is_there(both: Both):
    with Engine.open(both.packed, num_threads=1, experts=asked(both, 18, predictor="same")) as engine:
        assert engine.experts is not None
        before = {thread for thread in threading.enumerate() if thread.name == "librarian"}
        engine.experts.load_all()
        assert engine.experts.store is not None
        assert engine.experts.store.has_all
        found, _ = read(engine, both.ids)
        for thread in before:
            thread.join(60)
            assert not thread.is_alive()
    assert np.array_equal(found, both.expected)
