"""The thread that asks a predictor what to read ahead, each time that there are news for that predictor.

To wake it takes a core from those who compute. So compiled code is told which news are heeded, and opens the
gate for no others. What is decided ahead it asks for by itself.
"""

import os
import threading
import time

import numpy as np

from chronos_moe.store.desk import NAP_S, sleeping_block
from chronos_moe.store.ledger import News
from chronos_moe.store.meter import Foreseen
from chronos_moe.store.predictors import Decided, Floats, Foresight, Predictor, Seen
from chronos_moe.store.store import ExpertStore
from quant.native import NamedKernel
from quant.parking import parkings
from quant.pool_places import BARRIER_PATIENCE

await_news = NamedKernel("quant.kernels.experts.waiting", "await_news", 4)
tell_news = NamedKernel("quant.kernels.experts.waiting", "tell_news", 1)

_LOOKS = 4
MOST_PENDING = 1024
"""Passes whose wishes are remembered until it is known whether they came true."""


class Librarian:
    """Waits for news of compiled code, asks, and has the store read."""

    def __init__(
        self,
        store: ExpertStore,
        predictor: Predictor,
        *,
        order: tuple[int, ...],
        num_chosen: int,
        foresight: Floats | None,
    ) -> None:
        self._store, self._predictor = store, predictor
        self._order, self._num_chosen, self._foresight = order, num_chosen, foresight
        self._block = sleeping_block()
        self._pending: dict[int, dict[tuple[int, int], set[int]]] = {}
        """Wishes whose time has not come: by the clock of their pass, then by layer and horizon."""
        self._next_due = 0
        self._last: Floats | None = None
        """The foresight that the predictor has seen, where it looks at nothing else."""
        self._is_closing = False
        self.error: BaseException | None = None
        """What a predictor has raised, for whoever tells of it."""
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._live, name="librarian", daemon=True)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_closing = True
        tell_news(self._store.ledger.news.ctypes.data)
        is_running = self._thread.ident is not None and self._thread is not threading.current_thread()
        if is_running and self._process == os.getpid():
            self._thread.join()

    def _live(self) -> None:
        block, news = self._block.ctypes.data, self._store.ledger.news
        known = 0
        while True:
            if self._store.has_all:
                # Nothing will have to be read any more, and each waking takes a core from those who compute.
                return
            while parkings() == ("none",) and news[0] < known + 2:
                time.sleep(NAP_S)
            await_news(block, news.ctypes.data, known + 2, block + BARRIER_PATIENCE)
            if self._is_closing:
                return
            known = int(news[0]) & -2
            try:
                self._look()
            except Exception as error:
                self.error = error
                return

    def _look(self) -> None:
        self._count()
        if isinstance(self._predictor, Foresight) and self._is_old():
            # It would say nothing, and those who compute want this core.
            return
        seen = self._seen()
        if seen is None:
            return
        wishes = self._predictor.predict(seen, room=self._store.slots.num_slots - self._num_chosen)
        self._last = seen.foresight
        self._store.wish(wishes)
        for wish in wishes:
            due = self._pending.setdefault(seen.clock + wish.passes_ahead, {})
            due.setdefault((wish.layer, wish.horizon), set()).add(wish.expert)
        while len(self._pending) > MOST_PENDING:
            del self._pending[min(self._pending)]
        self._next_due = min(self._pending, default=0)

    def _is_old(self) -> bool:
        """Whether nothing has been foreseen since the predictor was asked."""
        return self._foresight is None or (
            self._last is not None and np.array_equal(self._foresight, self._last)
        )

    def _seen(self) -> Seen | None:
        """What there is to see at one moment; None where news come faster than they can be copied."""
        ledger = self._store.ledger
        shape = ledger.num_layers, ledger.num_experts
        for _ in range(_LOOKS):
            news = int(ledger.news[0]) & -2
            order, place = ledger.passes_taken(self._order)
            seen = Seen(
                clock=int(ledger.clock[0]),
                place=place,
                order=order,
                num_chosen=self._num_chosen,
                last_visits=ledger.last_visits.reshape(shape).copy(),
                visits=ledger.visits.reshape(shape).copy(),
                foresight=None if self._foresight is None else self._foresight.copy(),
            )
            if int(ledger.news[0]) & -2 == news:
                return seen
        return None

    def _count(self) -> None:
        """Which wishes of passes that have begun came true; what was overwritten since is not counted."""
        ledger = self._store.ledger
        now = int(ledger.clock[0])
        if not self._pending or now < self._next_due:
            return
        for clock in [clock for clock in self._pending if clock <= now]:
            for (layer, horizon), wished in self._pending.pop(clock).items():
                begin = layer * ledger.num_experts
                visits = ledger.last_visits[begin : begin + ledger.num_experts]
                visited = set(np.flatnonzero(visits == clock).tolist())
                if visited:
                    found = self._store.meter.foreseen.setdefault((layer, horizon), Foreseen())
                    found.wished += len(wished)
                    found.visited += len(visited)
                    found.both += len(wished & visited)
        self._next_due = min(self._pending, default=0)


def heeded_by(predictor: Predictor) -> tuple[News, ...]:
    """Which news a predictor has something to say to, and compiled code for it."""
    match predictor:
        case Decided():
            return ("decisions",)
        case Foresight():
            return ("guesses", "decisions")
        case _:
            return ("pass",)
