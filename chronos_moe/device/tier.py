"""Experts in a GPU's memory: the tier above the store, with a copy stream and an event for each expert.

    tier.count(place, row, experts)       a pass has begun
    tier.prefetch(wishes)                 the store reads; what is there is copied up while compute goes on
    blocks = tier.use(row, experts)       the experts' bytes on the device, for the current stream
    tier.done(row, experts)               what was queued on the current stream is the last to read them

The store's slots are pinned, so a device copies out of them by itself. A copy runs on a stream of its own
and ends in an event; compute waits for the events of the experts that it is about to use and for nothing
else, and the copy into a slot waits for the event behind the last compute that read it. The host waits for
the disk, and for a copy where it needs the pinned slot for another expert; it never waits for the device to
be idle.

An expert in a pinned slot is lent by the store until its copy has ended, so nobody overwrites what the device
still reads.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chronos_moe.store.predictors import Wish
from chronos_moe.store.store import ExpertStore
from configs.errors import ChimeraError, NotEnoughMemory, UsageError

Key = tuple[int, int]
"""An expert: the row of its layer, and its number there."""
_LOOK_S = 0.0005
"""Between two looks whether copies have ended, while the disk is waited for."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Slot:
    """A place on the device."""

    block: Tensor  # uint8 [block_bytes]
    copied: torch.cuda.Event
    """The expert's bytes are all there."""
    read: torch.cuda.Event
    """The last compute that reads them is over."""
    is_in_use: bool = False


class CudaTier:
    """The experts that one device has in its memory. One thread of the caller's uses it at a time."""

    def __init__(self, store: ExpertStore, *, num_slots: int, device: torch.device | str = "cuda") -> None:
        self.store = store
        self.device = torch.device(device)
        if num_slots < 1:
            raise UsageError(f"{num_slots} slots on {self.device}; at least 1 is needed")
        try:
            memory = torch.empty((num_slots, store.slots.block_bytes), dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError as error:
            raise NotEnoughMemory(
                f"{self.device} has no memory for {num_slots} experts of {store.slots.block_bytes:,} bytes",
                hint="Give it fewer.",
            ) from error
        self.num_slots = num_slots
        self._pinned = _Pinned(store)
        self._copies = torch.cuda.Stream(self.device)
        # A fresh block of the allocator may still be read on the stream of whoever had it before.
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        self._free = [
            _Slot(block=block, copied=torch.cuda.Event(), read=torch.cuda.Event()) for block in memory
        ]
        self._there: OrderedDict[Key, _Slot] = OrderedDict()
        """The least recently used first."""
        self._leaving: list[tuple[torch.cuda.Event, Key]] = []
        """What the store lent for copies that may still run."""
        self.num_copies = 0
        self.num_hits = 0
        """Visits that found their expert on the device."""

    def count(self, place: int, row: int, experts: Sequence[int]) -> None:
        """Keep the books by which the store's policies choose; on a CPU, compiled code does it."""
        ledger = self.store.ledger
        numbers = [row * ledger.num_experts + expert for expert in experts]
        ledger.clock[0] += 1
        ledger.last_visits[numbers] = ledger.begun[place] = ledger.clock[0]
        ledger.visits[numbers] += 1
        ledger.place[0] = place

    def prefetch(self, wishes: Sequence[Wish]) -> None:
        """Read ahead, and copy up what the store has of it by now."""
        self._give_back()
        self.store.wish([wish for wish in wishes if (wish.layer, wish.expert) not in self._there])
        for wish in wishes:
            key = (wish.layer, wish.expert)
            if key in self._there:
                self._there.move_to_end(key)
            else:
                self._copy(key)

    def use(self, row: int, experts: Sequence[int]) -> dict[int, Tensor]:
        """Experts of a layer on the device; what is queued on the current stream next sees them whole."""
        if len(experts) > self.num_slots:
            raise NotEnoughMemory(
                f"{len(experts)} experts at once, and {self.device} has room for {self.num_slots}",
                hint="Give the device more slots, or use fewer tokens at a time.",
            )
        self._give_back()
        missing: list[int] = []
        for expert in experts:
            slot = self._there.get((row, expert))
            if slot is None:
                missing.append(expert)
            else:
                slot.is_in_use = True
                self.num_hits += 1
        for first in range(0, len(missing), self.store.slots.num_slots):
            self._bring(row, missing[first : first + self.store.slots.num_slots])
        stream = torch.cuda.current_stream(self.device)
        found: dict[int, Tensor] = {}
        for expert in experts:
            slot = self._there[row, expert]
            self._there.move_to_end((row, expert))
            stream.wait_event(slot.copied)
            found[expert] = slot.block
        return found

    def done(self, row: int, experts: Sequence[int]) -> None:
        """Nothing that is queued on the current stream after this reads these experts."""
        stream = torch.cuda.current_stream(self.device)
        for expert in experts:
            slot = self._there[row, expert]
            slot.read.record(stream)
            slot.is_in_use = False

    def close(self) -> None:
        """Give back what the store lent. The host waits for copies that still run."""
        for copied, _ in self._leaving:
            copied.synchronize()
        self._give_back()
        self._pinned.release()

    def _bring(self, row: int, experts: Sequence[int]) -> None:
        """Read what is missing and queue its copies."""
        begin = time.perf_counter()
        away = self.store.demand(row, experts)
        # The slots that they could be read into may all be lent for copies.
        while not self.store.wait(away.values(), timeout_s=_LOOK_S if self._leaving else None):
            self._give_back()
        self.store.check(away.values())
        if away:
            end = time.perf_counter()
            self.store.meter.stalls += 1
            self.store.meter.stall_s += end - begin
            self.store.meter.span("stall", begin, end)
        for expert in experts:
            if not self._copy((row, expert)):
                # It is lent for a copy that was queued before and has lost its slot, which has to end first.
                self._wait_for_copy((row, expert))
                assert self._copy((row, expert)), "what was used before is done"
            self._there[row, expert].is_in_use = True

    def _copy(self, key: Key) -> bool:
        """Queue the copy of an expert; False where the store cannot lend it, or no slot is free."""
        slot = self._slot()
        if slot is None:
            return False
        lent = self.store.lend(*key)
        if lent is None:
            self._free.append(slot)
            return False
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.read)
            slot.block.copy_(torch.from_numpy(lent), non_blocking=True)
            slot.copied.record(self._copies)
        self._leaving.append((slot.copied, key))
        self._there[key] = slot
        self.num_copies += 1
        return True

    def _slot(self) -> _Slot | None:
        if self._free:
            return self._free.pop()
        for key, slot in self._there.items():
            if not slot.is_in_use:
                del self._there[key]
                return slot
        return None

    def _give_back(self) -> None:
        """The store may have again what was copied."""
        running: list[tuple[torch.cuda.Event, Key]] = []
        for copied, key in self._leaving:
            if copied.query():
                self.store.give_back(*key)
            else:
                running.append((copied, key))
        self._leaving = running

    def _wait_for_copy(self, key: Key) -> None:
        for copied, lent in self._leaving:
            if lent == key:
                copied.synchronize()
        self._give_back()


class _Pinned:
    """The store's slots as memory that a device reads by itself."""

    def __init__(self, store: ExpertStore) -> None:
        self._slots = store.slots
        self._driver: Any = torch.cuda.cudart()
        failed = int(self._driver.cudaHostRegister(self._slots.address, self._slots.num_bytes, 0))
        if failed:
            raise ChimeraError(
                f"{self._slots.num_bytes:,} bytes of memory cannot be pinned (CUDA error {failed})",
                hint="Give experts less memory, or raise the limit on locked memory: ulimit -l",
            )

    def release(self) -> None:
        """Let go of it."""
        self._driver.cudaHostUnregister(self._slots.address)
