"""Experts on a GPU: right bytes whatever overlaps, and no wait of the host for the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from chronos_moe.device.tier import CudaTier
from chronos_moe.store.ledger import Ledger
from chronos_moe.store.meter import Meter
from chronos_moe.store.predictors import Wish
from chronos_moe.store.reading import SIMULATED_MS, open_reader
from chronos_moe.store.store import ExpertStore
from configs.errors import NotEnoughMemory
from tests.chronos_moe.store.conftest import LAYERS, NUM_EXPERTS, Packed, packed, packed_once

__all__ = ["packed", "packed_once"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
]


@contextmanager
def opened(packed: Packed, *, pinned_slots: int, device_slots: int) -> Iterator[CudaTier]:
    paths = [packed.folder / cluster.file for cluster in packed.manifest.clusters]
    store = ExpertStore(
        packed.manifest,
        packed.folder,
        layers=LAYERS,
        ledger=Ledger(num_layers=len(LAYERS), num_experts=NUM_EXPERTS, most_passes=len(LAYERS)),
        order=(0, 1),
        num_slots=pinned_slots,
        reader=open_reader("buffered", paths),
        num_readers=3,
        policy="lru",
        meter=Meter(),
    )
    tier = CudaTier(store, num_slots=device_slots)
    try:
        yield tier
    finally:
        tier.close()
        store.close()


def bytes_on_disk(packed: Packed, row: int, expert: int) -> torch.Tensor:
    place = packed.manifest.places()[LAYERS[row], expert]
    path = packed.folder / packed.manifest.clusters[place.cluster].file
    size = packed.manifest.form.block_bytes
    return torch.from_numpy(np.fromfile(path, dtype=np.uint8, count=size, offset=place.offset))


@pytest.mark.parametrize(("pinned_slots", "device_slots"), [(2, 2), (3, 4), (12, 3), (4, 12)])
def test_compute_reads_the_right_bytes_however_late_it_runs(
    packed: Packed, pinned_slots: int, device_slots: int
):
    draws = np.random.default_rng(pinned_slots)
    with opened(packed, pinned_slots=pinned_slots, device_slots=device_slots) as tier:
        copies = []
        for _ in range(150):
            row = int(draws.integers(len(LAYERS)))
            experts = draws.choice(NUM_EXPERTS, 2, replace=False).tolist()
            tier.count(row, row, experts)
            tier.prefetch([Wish(layer=1 - row, expert=int(draws.integers(NUM_EXPERTS)), passes_ahead=1)])
            blocks = tier.use(row, experts)
            # The device falls behind, so that slots are wanted again while it still has to read them.
            torch.cuda._sleep(int(draws.integers(500_000)))
            copies += [(row, expert, block.clone()) for expert, block in blocks.items()]
            tier.done(row, experts)
        for row, expert, copy in copies:
            assert torch.equal(copy.cpu(), bytes_on_disk(packed, row, expert))
        assert tier.num_copies > 0


def test_the_host_waits_for_no_device(packed: Packed):
    with opened(packed, pinned_slots=6, device_slots=12) as tier:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for turn in range(20):
                tier.use(turn % 2, [turn % 6, (turn + 1) % 6])
                tier.done(turn % 2, [turn % 6, (turn + 1) % 6])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert tier.num_hits > 0


def test_reads_and_copies_go_on_beside_compute(packed: Packed, monkeypatch: pytest.MonkeyPatch):
    """With the right wishes early enough nothing has to be read when it is used."""
    monkeypatch.setenv(SIMULATED_MS, "5")
    with opened(packed, pinned_slots=12, device_slots=12) as tier:
        wishes = [
            Wish(layer=row, expert=expert, passes_ahead=row + 1) for row in (0, 1) for expert in range(6)
        ]
        tier.prefetch(wishes)
        store = tier.store
        while store.num_there < 12:
            torch.cuda._sleep(1000)
        tier.prefetch(wishes)
        for row in (0, 1):
            tier.use(row, list(range(6)))
            tier.done(row, list(range(6)))
        store.settle()
        assert (tier.num_copies, tier.num_hits, store.meter.misses) == (12, 12, 0)


def test_more_at_once_than_the_device_holds_is_refused(packed: Packed):
    refused = pytest.raises(NotEnoughMemory, match="3 experts at once, and cuda has room for 2")
    with opened(packed, pinned_slots=4, device_slots=2) as tier, refused:
        tier.use(0, [0, 1, 2])
