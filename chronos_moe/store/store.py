"""Experts between disk and memory: what is read, where it is put, who leaves, who is told.

An expert is asked for by compute, which waits for it, or by a wish. It gets a slot, and threads that stay in
compiled code take the most urgent one, read, and publish the expert's address in a word that compute looks at
(see `quant.kernels.experts.waiting`). Compiled code asks and waits in the same way; so here is only what it
leaves to Python: long waits, what the disk refuses, and what came of it all.

- Whoever waits never waits for a wish: a wish that finds no slot is dropped, and one that was not begun when
  its expert is needed moves to the front, or leaves its slot to who waits.
- What compute holds or is about to hold never leaves; nor does, for the sake of a wish, what another wish
  has brought and whose turn has not come.
- A read that fails is tried again; if it fails for good, those who wait are told, and the expert stays away.
"""

import errno
import os
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.desk import Desk
from chronos_moe.store.ledger import Ledger
from chronos_moe.store.manifest import Manifest, Place
from chronos_moe.store.meter import Foreseen, Meter
from chronos_moe.store.policy import PolicyName
from chronos_moe.store.predictors import Wish
from chronos_moe.store.reading import Reader, handles_of
from chronos_moe.store.slots import Slots
from configs.errors import DiskError, NotEnoughMemory, UsageError
from quant.kernels.experts import reading_places as at
from quant.parking import parkings

TRIES = 3
PAUSES_S = (0.01, 0.1)
"""How long to wait before a read is tried again."""
CLOSING_S = 10.0
"""How long who closes waits for reads that have begun; a dead mount may never answer them."""


class ExpertStore:
    """The experts of a model, some of them in memory. Arrays and addresses stay where they are.

    An expert's number counts through all layers: row · E + expert.
    """

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
        self.slots = Slots(num_slots=min(num_slots, len(self._names)), block_bytes=manifest.form.block_bytes)
        self._desk = Desk(self.slots, ledger, places=self._places, order=order, policy=policy)
        self._errors: dict[int, OSError] = {}
        """Why experts could not be read, by their numbers, until somebody is told."""
        self._told: dict[int, int] = {}
        """What of the desk's counts the meter has."""
        self._counting = threading.Lock()
        self._spans_since_ns = time.monotonic_ns()
        self._is_closed = False
        self.read_by(reader)
        self._process = os.getpid()
        ledger.desk[0] = self._desk.address
        self._num_serving, self._leaving = num_readers, threading.Lock()
        self._threads = [
            threading.Thread(target=self._serve, name=f"experts-{number}", daemon=True)
            for number in range(num_readers)
        ]
        for thread in self._threads:
            thread.start()

    def read_by(self, reader: Reader) -> None:
        """Read by this reader from now on. The files of a plain one are read by compiled code."""
        self._reader = reader
        self._desk.read_from(handles_of(reader))

    def let_compute_wait(self) -> None:
        """Have compiled code wait for a token's experts by itself, where it can sleep."""
        self.ledger.is_patient[0] = parkings() != ("none",)

    def close(self) -> None:
        """Stop reading. What is in memory stays valid as long as the store is held.

        Who reads leaves after the read that it has begun, and the last one closes the files.
        """
        self._is_closed = True
        self._desk.close()
        if self._process != os.getpid():
            self._reader.close()
            return
        until = time.monotonic() + CLOSING_S
        for thread in self._threads:
            # Whoever drops an engine last may be one of them.
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

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

    @property
    def num_on_their_way(self) -> int:
        """Experts that are asked for and not there yet."""
        return self._desk.num_on_their_way

    def demand(self, row: int, experts: Sequence[int], *, is_visit: bool = True) -> dict[int, int]:
        """Have some experts of a layer read before all else; those that are away, and their numbers.

        They stay once they are there. At most as many as there are slots may be demanded; the next call lets
        them go. Visits are counted.
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
        for expert in experts:
            self._errors.pop(first + expert, None)
        self._desk.demand(first, experts, is_visit=is_visit)
        return {expert: first + expert for expert in experts if not self.ledger.words[first + expert]}

    def wait(self, numbers: Collection[int], *, timeout_s: float | None = None) -> bool:
        """Wait until experts that were demanded are there or could not be read; whether that is in time."""
        until = np.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = [
                number for number in numbers if not self.ledger.words[number] and number not in self._errors
            ]
            if not left:
                return True
            if self._is_closed:
                for number in left:
                    self._errors[number] = OSError(errno.ECANCELED, "the engine was closed meanwhile")
                return True
            if time.monotonic() >= until:
                return False
            self._desk.wait(left, until=until)

    def wish(self, wishes: Sequence[Wish]) -> None:
        """Read experts ahead, as far as there is time and room."""
        if wishes:
            self._desk.wish(
                [(wish.layer * self.ledger.num_experts + wish.expert, wish.passes_ahead) for wish in wishes]
            )

    def lend(self, row: int, expert: int) -> NDArray[np.uint8] | None:
        """An expert's bytes, in use until they are given back; None where it is away or in use already.

        For who reads them without compiled code, which takes experts into use by their words.
        """
        slot = self._desk.borrow(row * self.ledger.num_experts + expert)
        return None if slot is None else self.slots.block(slot)

    def give_back(self, row: int, expert: int) -> None:
        """An expert that was lent is no longer in use."""
        self._desk.give_back(row * self.ledger.num_experts + expert)

    def check(self, numbers: Iterable[int]) -> None:
        """Refuse to go on where a read failed for good. It is told once; the next demand has it tried."""
        for number in numbers:
            error = self._errors.pop(number, None)
            if error is not None:
                layer, expert = self._names[number]
                cluster = self.manifest.clusters[self._places[number].cluster]
                what = error.strerror or str(error)
                raise DiskError(
                    f"{self.folder / cluster.file}: expert {expert} of layer {layer} could not be read in "
                    f"{TRIES} tries: {what}",
                    hint="The stream has stopped. Look at the disk, or copy the model's folder again.",
                ) from error

    def forget_errors(self) -> None:
        """Whoever wants an expert next has it tried again."""
        self._errors.clear()

    def settle(self) -> None:
        """Bring the meter up to what compiled code has counted."""
        meter, desk = self.meter, self._desk
        self.note_spans()
        meter.visits = int(self.ledger.visits.sum())
        meter.misses += self._new(at.MISSES)
        meter.late_hits += self._new(at.LATE_HITS)
        meter.stalls += self._new(at.STALLS)
        meter.stall_s += self._new(at.STALLED_NS) / 1e9
        meter.reads = desk.count(at.READS)
        meter.read_bytes = meter.reads * self.slots.block_bytes
        meter.busy_s = desk.count(at.BUSY_NS) / 1e9
        meter.dropped_wishes = desk.count(at.DROPPED)
        meter.wasted_reads = desk.count(at.WASTED) + desk.num_unvisited
        for row, counts in enumerate(self.ledger.decisions):
            if counts[at.VISITED]:
                meter.decided[row] = Foreseen(
                    wished=int(counts[at.WISHED]), visited=int(counts[at.VISITED]), both=int(counts[at.BOTH])
                )

    def note_spans(self) -> None:
        """Remember what went on since the last time, where somebody asked for it."""
        if self.meter.spans is None:
            return
        since, self._spans_since_ns = self._spans_since_ns, time.monotonic_ns()
        for begin, end in self._desk.reads_between(since, self._spans_since_ns):
            self.meter.span("read", begin, end)
        for begin, end in self._desk.stalls_since(self._told.get(-at.STALLS, 0)):
            self.meter.span("stall", begin, end)
        self._told[-at.STALLS] = self._desk.count(at.STALLS)

    def _new(self, place: int) -> int:
        """What one of the desk's counts has grown by since the meter was told."""
        count = self._desk.count(place)
        before, self._told[place] = self._told.get(place, 0), count
        return count - before

    def _serve(self) -> None:
        """What a thread that reads does: compiled code, but for what that cannot read."""
        while (slot := self._desk.next()) is not None:
            number = self._desk.number_of(slot)
            error = self._read(self._places[number], slot)
            if error is not None:
                self._errors[number] = error
            self._desk.finish(slot, is_read=error is None)
        with self._leaving:
            self._num_serving -= 1
            if not self._num_serving:
                self._reader.close()

    def _read(self, place: Place, slot: int) -> OSError | None:
        """Fill a slot; the last error where all tries failed."""
        into = self.slots.block(slot).data
        error: OSError | None = None
        for attempt in range(TRIES):
            try:
                self._reader.read(place, into)
            except Exception as failed:
                error = _as_failed_read(failed)
                with self._counting:
                    self.meter.failed_reads += 1
                if self._is_closed:
                    return error
                if attempt < len(PAUSES_S):
                    time.sleep(PAUSES_S[attempt])
            else:
                return None
        return error


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
