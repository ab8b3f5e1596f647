"""The work of a step, shared by many processes through a store of `torch.distributed`.

A step's work is cut into units, some sequences on one side of one pair each. A worker takes the next unit
that nobody has taken, computes it and puts the numbers into the store; when none is left, it waits for the
others'. All of them then read the same numbers in the same order, so that all weights move alike. That is
all they exchange: some numbers a sequence.

Nobody keeps a list of who is there. A unit that was taken and does not come is computed by whoever waits
for it: the first result counts, and another one is equal. So a worker that dies costs a wait, and one that
comes takes units as soon as it is where the others are: it reads the records of the steps behind them and
replays them. The collectives of gloo and NCCL can do neither: when one member is gone, they fail for all.

Nothing is removed from the store: a step leaves some hundred bytes. It lives in the process that opened it,
or in torchrun's agent. When that is gone, nobody goes on.
"""

import contextlib
import hashlib
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar, cast

from torch.distributed.distributed_c10d import Store

from configs.errors import ChimeraError

Answer = TypeVar("Answer")

LEAST_PATIENCE_S = 2.0
PATIENCE = 4.0
"""After so many times its usual unit, a worker takes another one for gone."""
RECENT_UNITS = 9
"""Units by which a worker knows what is usual."""
RUN_CHARACTERS = 8
_FIRST_SLEEP_S, _LONGEST_SLEEP_S = 0.001, 0.05


@dataclass(kw_only=True, slots=True)
class Traffic:
    """What a worker has asked of the store."""

    payload_bytes: int = 0
    """Keys and values, without the protocol around them."""
    questions: int = 0
    units: int = 0
    """Units that this worker computed."""
    waited_s: float = 0.0


class StoreExchange:
    """One worker's side. `run` names what is learnt: two runs never meet in one store."""

    def __init__(
        self,
        store: Store,
        *,
        run: str,
        holds_store: bool,
        port: int | None = None,
        least_patience_s: float = LEAST_PATIENCE_S,
    ) -> None:
        """`port` is where the store is listened for, if it is here."""
        self._store, self._holds_store = store, holds_store
        # It stands before every key, so that it is short.
        self._run = hashlib.sha256(run.encode()).hexdigest()[:RUN_CHARACTERS]
        self.port = port
        self._least_patience_s = least_patience_s
        self._recent_s: deque[float] = deque(maxlen=RECENT_UNITS)
        self._beaten = time.monotonic()
        self.traffic = Traffic()
        self._add("members", 1)

    @property
    def members(self) -> int:
        """How many workers have come, those who are gone included."""
        return self._add("members", 0)

    def record(self, step: int) -> bytes | None:
        """What was learnt in a step, where others have ended it."""
        self._add("beats", 1)
        self._beaten = time.monotonic()
        name = f"{step}/record"
        return self._get(name) if self._is_there(name) else None

    def numbers(
        self, step: int, *, count: int, compute: Callable[[int], Sequence[float]]
    ) -> list[list[float]]:
        """What each unit of a step gives, in order."""
        while (unit := self._add(f"{step}/next", 1) - 1) < count:
            self._compute(step, unit, compute)
        found: list[list[float]] = []
        for unit in range(count):
            name = f"{step}/{unit}"
            if not self._appears(name):
                # Whoever took it is gone, or slow.
                self._compute(step, unit, compute)
            found.append(_unpacked(self._get(name)))
        return found

    def end(self, step: int, record: bytes) -> None:
        """Say what was learnt in a step. All workers must have come to the same."""
        if self._put(f"{step}/record", record) != record:
            raise ChimeraError(
                f"step {step}: this worker came to another result than the others",
                hint="All need the same base, data, settings and version of Chimera. Start it again.",
            )

    def leave(self) -> None:
        """Say good-bye; the one with the store waits until the others have, or nothing moves any more."""
        if not self._holds_store:
            # It may be gone by now, with all that this worker wanted of it.
            with contextlib.suppress(ChimeraError):
                self._add("left", 1)
            return
        self._add("left", 1)
        beats, since = -1, time.monotonic()
        # Others may be at their last look, as this one was since it last asked for a step.
        patience_s = max(self._patience_s, PATIENCE * (since - self._beaten))
        while self._add("left", 0) < self.members:
            seen = self._add("beats", 0)
            if seen != beats:
                beats, since = seen, time.monotonic()
            elif time.monotonic() - since > patience_s:
                break
            time.sleep(_LONGEST_SLEEP_S)

    @property
    def _patience_s(self) -> float:
        # The median: a machine that slept during one unit is not slow.
        usual_s = median(self._recent_s) if self._recent_s else 0.0
        return max(self._least_patience_s, PATIENCE * usual_s)

    def _compute(self, step: int, unit: int, compute: Callable[[int], Sequence[float]]) -> None:
        started = time.monotonic()
        numbers = compute(unit)
        self._recent_s.append(time.monotonic() - started)
        self.traffic.units += 1
        self._put(f"{step}/{unit}", struct.pack(f"<{len(numbers)}d", *numbers))

    def _appears(self, name: str) -> bool:
        """Wait for a value, for as long as a living worker may need."""
        started, sleep = time.monotonic(), _FIRST_SLEEP_S
        try:
            while not self._is_there(name):
                if time.monotonic() - started > self._patience_s:
                    return False
                time.sleep(sleep)
                sleep = min(sleep * 1.5, _LONGEST_SLEEP_S)
            return True
        finally:
            self.traffic.waited_s += time.monotonic() - started

    def _is_there(self, name: str) -> bool:
        return self._ask(lambda: self._store.check([self._key(name)]), size=len(name))

    def _get(self, name: str) -> bytes:
        value = self._ask(lambda: self._store.get(self._key(name)), size=len(name))
        self.traffic.payload_bytes += len(value)
        return value

    def _put(self, name: str, value: bytes) -> bytes:
        """Set a value that is not there yet; what holds from now on."""
        # The store's types name text, and it takes bytes.
        size, held = len(name) + 2 * len(value), cast(Any, value)
        return self._ask(lambda: self._store.compare_set(self._key(name), "", held), size=size)

    def _add(self, name: str, amount: int) -> int:
        return self._ask(lambda: self._store.add(self._key(name), amount), size=len(name) + 8)

    def _key(self, name: str) -> str:
        return f"{self._run}/{name}"

    def _ask(self, question: Callable[[], Answer], *, size: int) -> Answer:
        self.traffic.questions += 1
        self.traffic.payload_bytes += size + len(self._run) + 1
        try:
            return question()
        except RuntimeError as error:
            raise ChimeraError(
                f"the worker that holds the common store does not answer: {str(error).splitlines()[0]}",
                hint="Start all workers again: each goes on from its own log.",
            ) from error


def _unpacked(value: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(value) // 8}d", value))
