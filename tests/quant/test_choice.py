"""The choice of a layout: by numbers, remembered, never trusted when damaged, and no part of any result."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import UsageError
from quant import choice, cpu, native
from quant.choice import Measured, best_layout, fastest
from quant.layout_names import LAYOUTS, Layout
from quant.layouts import PRODUCTS
from quant.selfcheck import chosen


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache folder of its own, and little to measure."""
    monkeypatch.delenv("CHIMERA_CPU", raising=False)
    for operation in PRODUCTS.values():
        native.code_of(chosen(operation).kernel)
    monkeypatch.setattr(choice, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(choice, "MEMORY_BYTES", 4 << 20)
    choice._measured.cache_clear()
    yield
    choice._measured.cache_clear()


def took(tiles: float, other: float, *, some: tuple[float, float] = (1.0, 1.0)) -> dict[str, Measured]:
    return {
        "tiles": Measured(one_token=tiles, token_of_some=some[0]),
        "trits": Measured(one_token=other, token_of_some=some[1]),
    }


@pytest.mark.parametrize(
    ("found", "layout"),
    [
        (took(100, 80), "trits"),
        (took(100, 95), "tiles"),
        (took(100, 130), "tiles"),
        (took(100, 80, some=(1.0, 1.2)), "trits"),
        (took(100, 80, some=(1.0, 1.5)), "tiles"),
        ({"tiles": Measured(one_token=1.0, token_of_some=1.0)}, "tiles"),
        (took(100, 80) | {"columns": Measured(one_token=60, token_of_some=1.0)}, "columns"),
    ],
)
def test_a_layout_has_to_be_worth_its_copy(found: dict[str, Measured], layout: str) -> None:
    assert fastest(found) == layout  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("slow_turns", "layout"), [(0, "tiles"), (5, "tiles"), (1000, "trits")])
def test_a_copy_is_believed_to_be_faster_only_as_long_as_it_is(
    monkeypatch: pytest.MonkeyPatch, slow_turns: int, layout: str
) -> None:
    """Somebody else's work slows the tiles for so many turns."""
    turns = {"tiles": 0, "trits": 0}

    def side(_pool: object, kernel: native.Kernel, *_call: object, least: int, **_rest: object):
        name = next(name for name in turns if kernels[name] is kernel)

        def run() -> float:
            turns[name] += least > 1
            return 100.0 if name == "trits" else 90.0 if turns[name] > slow_turns else 150.0

        return run

    monkeypatch.setattr(choice, "_side", side)
    kernels: dict[str, native.Kernel] = {name: chosen(PRODUCTS[name]).kernel for name in ("tiles", "trits")}  # pyright: ignore[reportArgumentType]
    found = choice.measure(kernels, place="cache", num_threads=2, cache_bytes=0)  # pyright: ignore[reportArgumentType]
    assert fastest(found) == layout
    assert turns["tiles"] == turns["trits"] == max(choice.ROUNDS, min(slow_turns + 1, 15))


@pytest.mark.parametrize("place", choice.PLACES)
def test_every_layout_is_measured_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: choice.Place
) -> None:
    first = best_layout(place=place, num_threads=2)
    assert tuple(first.measured) == LAYOUTS
    assert all(min(times.one_token, times.token_of_some) > 0 for times in first.measured.values())
    assert first.layout == fastest(first.measured)
    assert "2 threads" in first.reason
    assert "times as fast as tiles" in first.reason
    (memory,) = (tmp_path / "layouts").iterdir()
    assert memory.name.startswith(f"{place}-2-")
    choice._measured.cache_clear()
    monkeypatch.setattr(choice, "measure", lambda *_, **__: pytest.fail("measured twice"))
    assert best_layout(place=place, num_threads=2).measured == first.measured


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"tiles": [1, 2]}',
        b'{"tiles": [-1, 2], "columns": [1, 1], "trits": [1, 1]}',
        b'{"tiles": [NaN, 2], "columns": [1, 1], "trits": [1, 1]}',
        b'{"tiles": ["1", 2], "columns": [1, 1], "trits": [1, 1]}',
    ],
)
def test_a_damaged_memory_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    numbers: dict[Layout, Measured] = {
        layout: Measured(one_token=50.0 + at, token_of_some=3.0) for at, layout in enumerate(LAYOUTS)
    }
    monkeypatch.setattr(choice, "measure", lambda *_, **__: numbers)
    best_layout(place="cache", num_threads=1)
    (memory,) = (tmp_path / "layouts").iterdir()
    memory.write_bytes(damage)
    choice._measured.cache_clear()
    assert best_layout(place="cache", num_threads=1).measured == numbers
    assert json.loads(memory.read_bytes()) == {layout: [50.0 + at, 3.0] for at, layout in enumerate(LAYOUTS)}


def test_what_is_not_compiled_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "is_ready", lambda kernel: False)
    found = best_layout(place="memory", num_threads=1)
    assert found.layout == "tiles"
    assert found.reason == "columns would have to be compiled; trits would have to be compiled"
    assert not (tmp_path / "layouts").exists()


def test_chimera_cpu_outweighs_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "measure", lambda *_, **__: pytest.fail("measured"))
    best = cpu.allowed_forms()[0]
    for asked, layout in ((best, "tiles"), (f"{best}+trits", "trits"), (f"{best}+columns", "columns")):
        monkeypatch.setenv("CHIMERA_CPU", asked)
        assert best_layout(place="memory", num_threads=1).layout == layout
    monkeypatch.setenv("CHIMERA_CPU", f"{best}+rows")
    with pytest.raises(UsageError, match=r"is not known\n.*\+tiles or \+columns or \+trits"):
        best_layout(place="memory", num_threads=1)


def test_forgotten_numbers_are_measured_again(tmp_path: Path) -> None:
    best_layout(place="cache", num_threads=1)
    choice.forget()
    assert not list((tmp_path / "layouts").iterdir())
    best_layout(place="cache", num_threads=1)
    assert len(list((tmp_path / "layouts").iterdir())) == 1
