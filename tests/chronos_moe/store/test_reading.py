"""Ways of reading: equal bytes, a slow disk by the environment, and errors that say what is wrong."""

import time
from typing import get_args

import numpy as np
import pytest

from chronos_moe.store.choice import TURNS, best_reading, chosen, measure
from chronos_moe.store.reading import READERS, SIMULATED_MS, ReaderName, open_reader, simulated_ms
from chronos_moe.store.slots import Slots
from configs.errors import ClusterError, UsageError
from tests.chronos_moe.store.conftest import Packed


def test_the_table_holds_every_name():
    assert tuple(READERS) == get_args(ReaderName)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_gives_the_bytes_of_the_file(packed: Packed, name: ReaderName):
    paths = [packed.folder / cluster.file for cluster in packed.manifest.clusters]
    form = packed.manifest.form
    slots = Slots(num_slots=2, block_bytes=form.block_bytes)
    reader = open_reader(name, paths, is_checked=True)
    for place in packed.manifest.places().values():
        reader.read(place, slots.block(1).data)
        expected = np.fromfile(
            paths[place.cluster], dtype=np.uint8, count=form.block_bytes, offset=place.offset
        )
        assert np.array_equal(slots.block(1), expected)
    assert not slots.block(0).any()
    reader.close()


def test_a_checked_reader_refuses_an_edited_block(packed: Packed):
    path = packed.folder / packed.manifest.clusters[0].file
    place = packed.manifest.places()[packed.manifest.clusters[0].keys[0]]
    with path.open("r+b") as file:
        file.seek(place.offset + 100)
        file.write(b"edited")
    reader = open_reader("buffered", [path], is_checked=True)
    with pytest.raises(OSError, match="not those that were packed"):
        reader.read(place, memoryview(bytearray(packed.manifest.form.block_bytes)))
    reader.close()


def test_a_file_that_is_not_there_is_named(packed: Packed):
    for name in READERS:
        with pytest.raises(ClusterError, match=r"gone\.ctsr"):
            open_reader(name, [packed.folder / "gone.ctsr"])


def test_a_slow_disk_is_as_slow_as_asked(packed: Packed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SIMULATED_MS, "20")
    paths = [packed.folder / cluster.file for cluster in packed.manifest.clusters]
    reader = open_reader("buffered", paths)
    begin = time.monotonic()
    reader.read(next(iter(packed.manifest.places().values())), memoryview(bytearray(8192)))
    assert time.monotonic() - begin >= 0.02
    reader.close()


@pytest.mark.parametrize("text", ["fast", "-1", "nan", "1e9"])
def test_a_slowness_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv(SIMULATED_MS, text)
    with pytest.raises(UsageError, match=SIMULATED_MS):
        simulated_ms()


def test_a_disk_is_measured_by_what_works_on_it(packed: Packed):
    places = list(packed.manifest.places().values())
    paths = [packed.folder / cluster.file for cluster in packed.manifest.clusters]
    found = measure(places, paths, block_bytes=packed.manifest.form.block_bytes, seconds=0.0)
    assert {name for name, _ in found} - {"direct"} == {"buffered"}
    assert all(len(rates) == TURNS and min(rates) > 0 for rates in found.values())


RATES: dict[tuple[ReaderName, int], float] = {
    ("direct", 1): 1000.0, ("direct", 2): 900.0, ("direct", 4): 850.0, ("direct", 8): 850.0,
    ("buffered", 4): 900.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "best"),
    [
        ({}, ("direct", 4)),
        ({("direct", 1): 1100.0}, ("direct", 1)),
        ({("direct", 8): 1500.0}, ("direct", 8)),
        ({("buffered", 4): 1190.0}, ("direct", 4)),
        ({("buffered", 4): 1210.0}, ("buffered", 4)),
    ],
)
def test_what_is_not_clearly_faster_counts_as_no_faster(
    changed: dict[tuple[ReaderName, int], float], best: tuple[ReaderName, int]
):
    steady = {**RATES, **changed}
    # Each had one turn in which the disk gave more for a moment, and one in which another took of it.
    found = chosen({way: [rate, 3000.0, rate / 3] for way, rate in steady.items()})
    assert (found.reader, found.num_readers) == best
    assert found.peak_bytes_s == 3000.0


def test_what_was_slower_in_one_turn_counts_as_no_faster():
    steady = {way: [rate] * 3 for way, rate in RATES.items()}
    assert chosen({**steady, ("direct", 1): [3000.0, 3000.0, 840.0]}).num_readers == 4
    assert chosen({**steady, ("direct", 1): [3000.0, 3000.0, 860.0]}).num_readers == 1


def test_too_little_is_not_measured(packed: Packed):
    found = best_reading(packed.manifest, packed.folder)
    assert found.reader in ("direct", "buffered")
    assert "too few bytes" in found.reason
