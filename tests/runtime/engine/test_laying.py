"""How an engine's weights lie: by where they are read from, never beyond memory, and with the same bits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant import cpu
from quant.choice import LayoutChoice, Measured
from quant.layout_names import LAYOUTS, Layout
from runtime import system
from runtime.building import laying
from runtime.engine import Engine

MEASURED: dict[Layout, Measured] = {layout: Measured(one_token=1.0, token_of_some=1.0) for layout in LAYOUTS}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the measurement is asked; it answers that 1.6 bits are best."""
    calls: list[dict[str, Any]] = []

    def best_layout(**given: Any) -> LayoutChoice:
        calls.append(given)
        return LayoutChoice(layout="trits", reason="it was measured", measured=MEASURED)

    monkeypatch.delenv("CHIMERA_CPU", raising=False)
    monkeypatch.setattr(laying, "best_layout", best_layout)
    return calls


@pytest.mark.parametrize(("cache_bytes", "place"), [(1 << 30, "cache"), (0, "memory")])
def test_the_place_is_where_the_weights_fit(
    micro: Path, monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]], cache_bytes: int, place: str
) -> None:
    monkeypatch.setattr(system, "cache_bytes", lambda: cache_bytes)
    with Engine.open(micro, num_threads=1) as engine:
        assert engine.weights_layout.layout == "trits"
        copied = engine.buffer_bytes
    assert asked == [{"place": place, "num_threads": 1, "cache_bytes": cache_bytes}]
    monkeypatch.setattr(
        laying, "best_layout", lambda **_: LayoutChoice(layout="tiles", reason="", measured={})
    )
    with Engine.open(micro, num_threads=1) as engine:
        assert copied > engine.buffer_bytes, "copies are counted"


def test_under_a_limit_of_memory_nothing_is_copied(micro: Path, asked: list[dict[str, Any]]) -> None:
    with Engine.open(micro, num_threads=1, memory_limit_bytes=1 << 40) as engine:
        assert engine.weights_layout.layout == "tiles"
        assert "memory is limited" in engine.weights_layout.reason
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_a_copy_needs_room(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(system.memory(), available_bytes=1000)
    monkeypatch.setattr(system, "memory", lambda: small)
    with Engine.open(micro, num_threads=1) as engine:
        assert engine.weights_layout.layout == "tiles"
        assert "too little memory" in engine.weights_layout.reason


def test_no_layout_changes_a_bit(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bytes] = []
    for layout in LAYOUTS:
        monkeypatch.setenv("CHIMERA_CPU", f"{cpu.allowed_forms()[0]}+{layout}")
        with Engine.open(micro, num_threads=1) as engine:
            assert engine.weights_layout.layout == layout
            state = engine.new_state()
            engine.prefill(state, np.arange(40) % engine.config.vocab_size)
            found.append(engine.logits().tobytes())
    assert len(set(found)) == 1
