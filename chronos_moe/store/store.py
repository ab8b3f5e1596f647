"""Experts between disk and memory: what is read, where it is put, who leaves, who is told.

A reading is asked for by compute, which waits for it, or by a wish. Threads take the most urgent one, find a
slot for it, read, and publish the expert's address in a word that compiled code looks at (see
`quant.kernels.experts.waiting`); the reading's own event tells whoever waits for this expert and no other.

- Whoever waits never waits for a wish: a wish that finds no slot is dropped, and one that was not begun when
  its expert is needed moves to the front.
- What compute holds or is about to hold never leaves; nor does, for the sake of a wish, what another wish
  has brought and whose turn has not come.
- A read that fails is tried again; if it fails for good, those who wait are told, and the expert stays away.
"""

import errno
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.ledger import Ledger
from chronos_moe.store.manifest import Manifest, Place
from chronos_moe.store.meter import Meter
from chronos_moe.store.policy import POLICIES, PolicyName, Residents
from chronos_moe.store.predictors import Wish
from chronos_moe.store.reading import Reader
from chronos_moe.store.slots import Slots
from configs.errors import DiskError, NotEnoughMemory, UsageError
from quant.native import NamedKernel

Integers = NDArray[np.int64]

TRIES = 3
PAUSES_S = (0.01, 0.1)
"""How long to wait before a read is tried again."""
NOW = -1
"""The urgency of what is waited for."""

withdraw = NamedKernel("quant.kernels.experts.waiting", "withdraw", 1)
publish = NamedKernel("quant.kernels.experts.waiting", "publish", 2)


@dataclass(kw_only=True, slots=True, eq=False)
class Reading:
    """An expert on its way."""

    number: int
    """Of the expert, through all layers."""
    urgency: int
    """Passes until it is needed."""
    is_wish: bool
    is_begun: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    """The expert is there, or there is an error."""
    error: OSError | None = None


class ExpertStore:
    """The experts of a model, some of them in memory. Arrays and addresses stay where they are."""

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        *,
        layers: Sequence[int],
        ledger: Ledger,
        order: tuple[int, ...],
        num_slots: int,
        reader: Reader,
        num_readers: int,
        policy: PolicyName,
        meter: Meter,
    ) -> None:
        """`layers` are the layers with experts; `order` the passes of a call by their rows in it."""
        self.manifest, self.folder, self.meter = manifest, folder, meter
        self.ledger = ledger
        self._names = [(layer, expert) for layer in layers for expert in range(ledger.num_experts)]
        places = manifest.places()
        self._places = [places[name] for name in self._names]
        size = len(self._names)
        self.slots = Slots(num_slots=min(num_slots, size), block_bytes=manifest.form.block_bytes)
        self._residents = Residents(
            order=order,
            num_experts=ledger.num_experts,
            last_visits=ledger.last_visits,
            visits=ledger.visits,
            loaded=np.zeros(size, dtype=np.int64),
        )
        self._worth, self._order = POLICIES[policy], order
        self._reader = reader
        self._owners: Integers = np.full(self.slots.num_slots, -1, dtype=np.int64)
        self._free = list(range(self.slots.num_slots))
        self._due: Integers = np.zeros(size, dtype=np.int64)
        """Until when a wish's expert is kept, by the clock."""
        self._unvisited: set[int] = set()
        """What a wish brought and nobody has visited since."""
        self._wanted: frozenset[int] = frozenset()
        self._readings: dict[int, Reading] = {}
        self._changed = threading.Condition()
        self._wasted = self._num_reading = 0
        self._busy_since = 0.0
        self._is_closed = False
        self._fault: OSError | None = None
        """Why nothing is read any more, where a thread met a mistake of ours."""
        self._process = os.getpid()
        self._threads = [
            threading.Thread(target=self._serve, name=f"experts-{number}", daemon=True)
            for number in range(num_readers)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop reading. What is in memory stays valid as long as the store is held."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._process == os.getpid():
            for thread in self._threads:
                # Whoever drops an engine last may be one of them.
                if thread is not threading.current_thread():
                    thread.join()
        with self._changed:
            self._tell_all(OSError(errno.ECANCELED, "the engine was closed meanwhile"))
        self._reader.close()

    def is_there(self, row: int, expert: int) -> bool:
        """Whether an expert is in memory."""
        return bool(self.ledger.words[row * self.ledger.num_experts + expert])

    @property
    def num_there(self) -> int:
        """Experts in memory."""
        return int(np.count_nonzero(self.ledger.words))

    @property
    def has_all(self) -> bool:
        """Whether every expert is in memory; then none ever leaves."""
        return self.num_there == self.ledger.words.size

    def demand(self, row: int, experts: Sequence[int], *, is_visit: bool = True) -> dict[int, Reading]:
        """What is on its way of some experts of a layer, from now on before all else. They stay once there.

        At most as many as there are slots may be demanded; the next call lets them go. Visits are counted.
        """
        if self._process != os.getpid():
            raise UsageError(
                "experts on disk are read by threads, which a forked process has none of",
                hint="Open the engine after the fork.",
            )
        if self._is_closed:
            raise UsageError("the experts' files are closed", hint="Open the engine anew.")
        assert len(experts) <= self.slots.num_slots, "what is demanded together has to fit"
        first = row * self.ledger.num_experts
        found: dict[int, Reading] = {}
        with self._changed:
            self._wanted = frozenset(first + expert for expert in experts)
            for expert in experts:
                number = first + expert
                if self.ledger.words[number]:
                    continue
                reading = self._readings.get(number)
                if reading is None:
                    self.meter.misses += is_visit
                    reading = Reading(number=number, urgency=NOW, is_wish=False)
                    self._readings[number] = reading
                elif reading.is_wish:
                    self.meter.late_hits += 1
                    reading.urgency, reading.is_wish = NOW, False
                else:
                    # Somebody asked before and went without.
                    self.meter.misses += 1
                found[expert] = reading
            if self._fault is not None:
                self._tell_all(self._fault)
            elif found:
                self._changed.notify_all()
        return found

    def wish(self, wishes: Sequence[Wish]) -> None:
        """Read experts ahead, as far as there is time and room."""
        with self._changed:
            clock = int(self.ledger.clock[0])
            begun = False
            for wish in wishes:
                number = wish.layer * self.ledger.num_experts + wish.expert
                self._due[number] = max(self._due[number], clock + wish.passes_ahead)
                if not self.ledger.words[number] and number not in self._readings:
                    reading = Reading(number=number, urgency=wish.passes_ahead, is_wish=True)
                    self._readings[number] = reading
                    begun = True
            if begun:
                self._changed.notify_all()

    def lend(self, row: int, expert: int) -> NDArray[np.uint8] | None:
        """An expert's bytes, in use until they are given back; None where it is away or in use already.

        For who reads them without compiled code, which takes experts into use by their words.
        """
        number = row * self.ledger.num_experts + expert
        with self._changed:
            word = int(self.ledger.words[number])
            if word == 0 or word & 1:
                return None
            self.ledger.words[number] = word | 1
        return self.slots.block((word - self.slots.address) // self.slots.block_bytes)

    def give_back(self, row: int, expert: int) -> None:
        """An expert that was lent is no longer in use."""
        with self._changed:
            self.ledger.words[row * self.ledger.num_experts + expert] &= -2
            self._changed.notify_all()

    def check(self, readings: Iterable[Reading]) -> None:
        """Refuse to go on where a read failed for good."""
        for reading in readings:
            if reading.error is not None:
                layer, expert = self._names[reading.number]
                cluster = self.manifest.clusters[self._places[reading.number].cluster]
                what = reading.error.strerror or str(reading.error)
                raise DiskError(
                    f"{self.folder / cluster.file}: expert {expert} of layer {layer} could not be read in "
                    f"{TRIES} tries: {what}",
                    hint="The stream has stopped. Look at the disk, or copy the model's folder again.",
                ) from reading.error

    def settle(self) -> None:
        """Bring the meter up to what compiled code has counted."""
        with self._changed:
            self.meter.visits = int(self.ledger.visits.sum())
            self._forget_visited()
            waste = len(self._unvisited) + self._wasted
            self.meter.wasted_reads = waste

    def _serve(self) -> None:
        while True:
            with self._changed:
                try:
                    taken = self._take()
                except Exception as mistake:
                    # Nobody may wait for a thread that has ended.
                    self._fault = _as_failed_read(mistake)
                    self._tell_all(self._fault)
                    return
                begin = time.perf_counter()
                if taken is None:
                    return
                if not self._num_reading:
                    self._busy_since = begin
                self._num_reading += 1
            reading, slot = taken
            error = self._read(self._places[reading.number], slot)
            with self._changed:
                end = time.perf_counter()
                self.meter.span("read", begin, end)
                self._num_reading -= 1
                if not self._num_reading:
                    self.meter.busy_s += end - self._busy_since
                self._finish(reading, slot, error)
                self._changed.notify_all()

    def _take(self) -> tuple[Reading, int] | None:
        """The most urgent reading and a slot for it; None when the store is closed."""
        while not self._is_closed:
            waiting = [reading for reading in self._readings.values() if not reading.is_begun]
            for reading in sorted(waiting, key=lambda found: found.urgency):
                slot = self._slot_for(reading)
                if slot is not None:
                    reading.is_begun = True
                    return reading, slot
                if not reading.is_wish:
                    break
                del self._readings[reading.number]
                self.meter.dropped_wishes += 1
            self._changed.wait()
        return None

    def _slot_for(self, reading: Reading) -> int | None:
        if self._free:
            return self._free.pop()
        residents = self._residents
        residents.clock = int(self.ledger.clock[0])
        residents.order, residents.place = self.ledger.passes_taken(self._order)
        worth = self._worth(residents)[self._owners]
        worth[self._owners < 0] = np.inf  # being read
        is_due = self._due[self._owners] > residents.clock
        worth[is_due] = np.inf if reading.is_wish else worth[is_due] + 1e12
        for slot in np.argsort(worth, kind="stable"):
            if worth[slot] == np.inf:
                return None
            number = int(self._owners[slot])
            if number not in self._wanted and withdraw(self.ledger.words.ctypes.data + number * 8):
                self._forget_visited()
                self._wasted += number in self._unvisited
                self._unvisited.discard(number)
                self._owners[slot] = -1
                return int(slot)
        return None

    def _read(self, place: Place, slot: int) -> OSError | None:
        """Fill a slot; the last error where all tries failed."""
        into = self.slots.block(slot).data
        error: OSError | None = None
        for attempt in range(TRIES):
            try:
                self._reader.read(place, into)
            except Exception as failed:
                error = _as_failed_read(failed)
                with self._changed:
                    self.meter.failed_reads += 1
                    if self._is_closed:
                        return error
                if attempt < len(PAUSES_S):
                    time.sleep(PAUSES_S[attempt])
            else:
                return None
        return error

    def _finish(self, reading: Reading, slot: int, error: OSError | None) -> None:
        del self._readings[reading.number]
        if error is None:
            self.meter.reads += 1
            self.meter.read_bytes += self.slots.block_bytes
            self._owners[slot] = reading.number
            self._residents.loaded[reading.number] = self.ledger.clock[0]
            if reading.is_wish:
                self._unvisited.add(reading.number)
            publish(self.ledger.words.ctypes.data + reading.number * 8, self.slots.address_of(slot))
        else:
            reading.error = error
            self._free.append(slot)
        reading.done.set()

    def _tell_all(self, error: OSError) -> None:
        """Give up what nobody has begun to read, or ever will."""
        for reading in list(self._readings.values()):
            if self._is_closed or not reading.is_begun:
                del self._readings[reading.number]
                reading.error = error
                reading.done.set()

    def _forget_visited(self) -> None:
        """What was visited since it was read was of use."""
        visited = {
            number
            for number in self._unvisited
            if self.ledger.last_visits[number] > self._residents.loaded[number]
        }
        self._unvisited -= visited


def _as_failed_read(error: Exception) -> OSError:
    """What a thread met, as a failed read, with its cause: whoever waits is told nothing else."""
    if isinstance(error, OSError):
        return error
    failed = OSError(errno.EIO, f"{type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed


def check_budget(num_bytes: int, *, block_bytes: int, num_chosen: int) -> int:
    """How many experts a budget holds; refused when one token in one layer needs more."""
    count = num_bytes // block_bytes
    if count < num_chosen:
        raise NotEnoughMemory(
            f"{num_bytes:,} bytes for experts hold {count} of {block_bytes:,} bytes; a token needs "
            f"{num_chosen} at a time, which is {num_chosen * block_bytes:,} bytes",
            hint=f"Give experts more: --experts-memory {-(-num_chosen * block_bytes // 2**20)}M at least.",
        )
    return count
