"""The store: what is demanded is there and right, what is in use stays, what fails is told."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chronos_moe.store.ledger import Ledger
from chronos_moe.store.manifest import Place
from chronos_moe.store.meter import Meter
from chronos_moe.store.policy import POLICIES, PolicyName
from chronos_moe.store.predictors import Wish
from chronos_moe.store.reading import Reader, open_reader
from chronos_moe.store.store import ExpertStore, check_budget
from configs.errors import DiskError, NotEnoughMemory, UsageError
from tests.chronos_moe.store.conftest import LAYERS, NUM_EXPERTS, Packed

LONG_S = 60


@contextmanager
def opened(
    packed: Packed, *, num_slots: int, reader: Reader | None = None, policy: PolicyName = "lru"
) -> Iterator[ExpertStore]:
    paths = [packed.folder / cluster.file for cluster in packed.manifest.clusters]
    store = ExpertStore(
        packed.manifest,
        packed.folder,
        layers=LAYERS,
        ledger=Ledger(num_layers=len(LAYERS), num_experts=NUM_EXPERTS, most_passes=2),
        order=(0, 1),
        num_slots=num_slots,
        reader=open_reader("direct", paths) if reader is None else reader,
        num_readers=3,
        policy=policy,
        meter=Meter(),
    )
    try:
        yield store
    finally:
        store.close()


def bring(store: ExpertStore, row: int, experts: list[int]) -> None:
    away = store.demand(row, experts)
    assert store.wait(away.values(), timeout_s=LONG_S)
    store.check(away.values())


def bytes_there(store: ExpertStore, row: int, expert: int) -> bytes:
    """What lies where the ledger says that an expert is."""
    word = int(store.ledger.words[row * NUM_EXPERTS + expert]) & -2
    assert word, "the expert is in memory"
    slot, rest = divmod(word - store.slots.address, store.slots.block_bytes)
    assert rest == 0
    return store.slots.block(slot).tobytes()


def bytes_on_disk(packed: Packed, row: int, expert: int) -> bytes:
    place = packed.manifest.places()[LAYERS[row], expert]
    path = packed.folder / packed.manifest.clusters[place.cluster].file
    size = packed.manifest.form.block_bytes
    return path.read_bytes()[place.offset : place.offset + size]


EXPERTS = st.lists(st.integers(0, NUM_EXPERTS - 1), min_size=1, max_size=3, unique=True)
ACTS = st.lists(
    st.tuples(st.sampled_from(["demand", "wish"]), st.integers(0, len(LAYERS) - 1), EXPERTS), max_size=25
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS, num_slots=st.integers(3, 8), policy=st.sampled_from(sorted(POLICIES)))
def test_what_is_demanded_is_there_and_right(
    packed: Packed, acts: list[tuple[str, int, list[int]]], num_slots: int, policy: PolicyName
):
    with opened(packed, num_slots=num_slots, policy=policy) as store:
        held: list[int] = []
        for act, row, experts in acts:
            if act == "wish":
                store.wish([Wish(layer=row, expert=expert, passes_ahead=1) for expert in experts])
                continue
            store.ledger.words[held] &= -2
            bring(store, row, experts)
            held = [row * NUM_EXPERTS + expert for expert in experts]
            store.ledger.words[held] |= 1
            for expert in experts:
                assert bytes_there(store, row, expert) == bytes_on_disk(packed, row, expert)
            assert store.num_there <= num_slots
        # What is in use has stayed, whatever was wished for since.
        for number in held:
            row, expert = divmod(number, NUM_EXPERTS)
            assert bytes_there(store, row, expert) == bytes_on_disk(packed, row, expert)
        store.settle()
        assert store.meter.read_bytes == store.meter.reads * store.slots.block_bytes


class Faulty:
    """A disk that fails so many times, and waits for a word where it is told to."""

    def __init__(self, packed: Packed, *, failures: int, gate: threading.Event | None = None) -> None:
        paths = [packed.folder / cluster.file for cluster in packed.manifest.clusters]
        self._reader = open_reader("buffered", paths)
        self.failures, self.gate = failures, gate
        self.begun, self.is_closed = threading.Semaphore(0), threading.Event()

    def read(self, place: Place, into: memoryview) -> None:
        self.begun.release()
        if self.gate is not None:
            assert self.gate.wait(LONG_S)
        if self.failures > 0:
            self.failures -= 1
            raise OSError(errno.EIO, "Input/output error")
        self._reader.read(place, into)

    def close(self) -> None:
        self._reader.close()
        self.is_closed.set()


def test_a_read_that_fails_once_is_tried_again(packed: Packed):
    with opened(packed, num_slots=3, reader=Faulty(packed, failures=2)) as store:
        bring(store, 0, [4])
        assert bytes_there(store, 0, 4) == bytes_on_disk(packed, 0, 4)
        store.settle()
        assert store.meter.failed_reads == 2


def test_a_read_that_always_fails_is_told_with_its_file(packed: Packed):
    faulty = Faulty(packed, failures=10**6)
    with opened(packed, num_slots=3, reader=faulty) as store:
        with pytest.raises(DiskError, match=r"experts-\d+\.ctsr: expert 4 of layer 1 .*Input/output error"):
            bring(store, 0, [4])
        assert not store.is_there(0, 4)
        faulty.failures = 0
        bring(store, 0, [4, 1])
        assert bytes_there(store, 0, 4) == bytes_on_disk(packed, 0, 4)


class Mistaken(Faulty):
    """A reader with a fault of its own, not of the disk's."""

    def read(self, place: Place, into: memoryview) -> None:
        raise LookupError("no such place")


def test_a_mistake_of_a_reader_is_told_with_its_cause(packed: Packed):
    with opened(packed, num_slots=3, reader=Mistaken(packed, failures=0)) as store:
        for _ in range(4):  # more often than there are threads
            with pytest.raises(DiskError, match="LookupError: no such place") as told:
                bring(store, 0, [4])
            assert told.value.__cause__ is not None
            assert isinstance(told.value.__cause__.__cause__, LookupError)


def test_who_waits_while_the_store_is_closed_is_told(packed: Packed):
    gate = threading.Event()
    faulty = Faulty(packed, failures=0, gate=gate)
    with opened(packed, num_slots=5, reader=faulty) as store:
        away = store.demand(0, [0, 1, 2, 3, 4])
        for _ in range(3):
            assert faulty.begun.acquire(timeout=LONG_S)
        closing = threading.Thread(target=store.close)
        closing.start()
        while not store._is_closed:
            threading.Event().wait(0.001)
        gate.set()
        assert store.wait(away.values(), timeout_s=LONG_S)
        closing.join()
        with pytest.raises(DiskError, match="closed meanwhile"):
            store.check(away.values())
        with pytest.raises(UsageError, match="are closed"):
            store.demand(0, [5])


def test_who_closes_waits_for_no_disk_that_never_answers(packed: Packed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chronos_moe.store.store.CLOSING_S", 0.05)
    faulty = Faulty(packed, failures=0, gate=threading.Event())
    with opened(packed, num_slots=3, reader=faulty) as store:
        store.demand(0, [0, 1])
        for _ in range(2):
            assert faulty.begun.acquire(timeout=LONG_S)
        store.close()
        late = [thread for thread in store._threads if thread.is_alive()]
        assert len(late) == 2
        assert not faulty.is_closed.is_set(), "somebody reads them"
        assert faulty.gate is not None
        faulty.gate.set()
        assert faulty.is_closed.wait(LONG_S)


def test_a_file_that_is_cut_while_it_is_read_is_told(packed: Packed):
    with opened(packed, num_slots=3) as store:
        layer, expert = packed.manifest.clusters[0].keys[-1]
        with (packed.folder / packed.manifest.clusters[0].file).open("r+b") as file:
            file.truncate(packed.manifest.places()[layer, expert].offset + 512)
        with pytest.raises(DiskError, match=r"the file ends before the expert does|Invalid argument"):
            bring(store, LAYERS.index(layer), [expert])


def test_who_waits_is_served_before_wishes(packed: Packed):
    gate = threading.Event()
    faulty = Faulty(packed, failures=0, gate=gate)
    with opened(packed, num_slots=4, reader=faulty) as store:
        store.wish([Wish(layer=0, expert=expert, passes_ahead=2) for expert in range(5)])
        for _ in range(3):
            assert faulty.begun.acquire(timeout=LONG_S)
        away = store.demand(1, [0, 5])
        gate.set()
        assert store.wait(away.values(), timeout_s=LONG_S)
        store.settle()
        assert store.meter.misses == 2
        assert all(bytes_there(store, 1, expert) == bytes_on_disk(packed, 1, expert) for expert in (0, 5))


def test_who_waits_takes_the_slot_of_a_wish_that_nobody_has_begun(packed: Packed):
    gate = threading.Event()
    faulty = Faulty(packed, failures=0, gate=gate)
    with opened(packed, num_slots=4, reader=faulty) as store:
        store.wish([Wish(layer=0, expert=expert, passes_ahead=expert) for expert in range(4)])
        for _ in range(3):
            assert faulty.begun.acquire(timeout=LONG_S)
        away = store.demand(1, [0])
        gate.set()
        assert store.wait(away.values(), timeout_s=LONG_S)
        store.settle()
        assert (store.meter.dropped_wishes, store.meter.misses) == (1, 1)
        assert not store.is_there(0, 3)
        assert bytes_there(store, 1, 0) == bytes_on_disk(packed, 1, 0)


def test_a_wait_ends_in_time_whatever_the_disk_does(packed: Packed):
    gate = threading.Event()
    with opened(packed, num_slots=4, reader=Faulty(packed, failures=0, gate=gate)) as store:
        away = store.demand(0, [1])
        assert not store.wait(away.values(), timeout_s=0.01)
        assert not store.wait(away.values(), timeout_s=0)
        gate.set()
        assert store.wait(away.values(), timeout_s=LONG_S)


def test_what_is_lent_stays_and_is_lent_once(packed: Packed):
    with opened(packed, num_slots=2) as store:
        bring(store, 0, [1, 2])
        lent = store.lend(0, 1)
        assert lent is not None
        assert lent.tobytes() == bytes_on_disk(packed, 0, 1)
        assert store.lend(0, 1) is None
        assert store.lend(0, 3) is None
        bring(store, 1, [0])
        assert store.is_there(0, 1)
        away = store.demand(1, [0, 3])
        assert not store.wait(away.values(), timeout_s=0.01)
        store.give_back(0, 1)
        assert store.wait(away.values(), timeout_s=LONG_S)
        assert not store.is_there(0, 1)


def test_a_wish_that_is_on_its_way_is_a_late_hit(packed: Packed):
    gate = threading.Event()
    faulty = Faulty(packed, failures=0, gate=gate)
    with opened(packed, num_slots=4, reader=faulty) as store:
        store.wish([Wish(layer=0, expert=2, passes_ahead=1)])
        assert faulty.begun.acquire(timeout=LONG_S)
        away = store.demand(0, [2])
        gate.set()
        assert store.wait(away.values(), timeout_s=LONG_S)
        store.settle()
        assert (store.meter.late_hits, store.meter.misses, store.meter.reads) == (1, 0, 1)


def test_a_wish_that_nobody_needed_is_a_wasted_read(packed: Packed):
    with opened(packed, num_slots=2) as store:
        store.wish([Wish(layer=0, expert=2, passes_ahead=0)])
        while not store.is_there(0, 2):
            threading.Event().wait(0.001)
        store.settle()
        assert store.meter.wasted_reads == 1
        for expert in (3, 4):
            bring(store, 0, [expert])
        bring(store, 1, [1])
        store.settle()
        assert store.meter.wasted_reads == 1


def test_a_budget_below_one_token_in_one_layer_is_refused():
    assert check_budget(3 * 4096, block_bytes=4096, num_chosen=3) == 3
    with pytest.raises(NotEnoughMemory, match="hold 2 of 4,096 bytes; a token needs 3"):
        check_budget(3 * 4096 - 1, block_bytes=4096, num_chosen=3)


def test_a_closed_store_leaves_no_thread(packed: Packed, tmp_path: Path):
    before = set(threading.enumerate())
    with opened(packed, num_slots=3) as store:
        store.wish([Wish(layer=0, expert=expert, passes_ahead=1) for expert in range(3)])
    left = {thread for thread in threading.enumerate() if thread.name.startswith("experts-")}
    assert left <= before
    assert np.count_nonzero(store.ledger.words) <= 3
