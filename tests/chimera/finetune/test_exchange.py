"""Where workers meet, and what they are told when they cannot."""

import gc

import pytest
from torch._C._distributed_c10d import HashStore

from chimera.finetune.exchange import open_exchange
from chimera.finetune.store import StoreExchange
from configs.errors import ChimeraError


def test_a_port_that_is_taken_is_named():
    held = open_exchange("run", where=":0")
    assert held.port
    with pytest.raises(ChimeraError, match=f"port {held.port} cannot be listened at"):
        open_exchange("run", where=f":{held.port}")


def test_units_come_back_in_order_whoever_computed_them():
    store = HashStore()
    one, other = (StoreExchange(store, run="run", holds_store=False) for _ in range(2))
    seen: list[int] = []

    def compute(unit: int) -> list[float]:
        # The other worker comes while this one computes, and takes all that is left.
        seen.append(unit)
        if unit == 0:
            other.numbers(0, count=3, compute=lambda of_other: [float(of_other), -0.1])
        return [float(unit), -0.1]

    expected = [[0.0, -0.1], [1.0, -0.1], [2.0, -0.1], [3.0, -0.1]]
    one.numbers(1, count=1, compute=lambda _: [0.0])
    late = StoreExchange(store, run="run", holds_store=False, least_patience_s=0.0)
    other = late
    assert one.numbers(0, count=4, compute=compute) == expected
    assert late.traffic.units > 0


def test_who_has_done_all_may_leave_when_the_store_is_gone():
    holder = open_exchange("run", where=":0")
    other = open_exchange("run", where=f"127.0.0.1:{holder.port}")
    assert other.members == 2
    del holder
    gc.collect()
    with pytest.raises(ChimeraError, match="does not answer"):
        other.record(0)
    other.leave()


class Clock:
    """One that goes on by sleeping alone, and wakes somebody at a time."""

    def __init__(self) -> None:
        self.now, self.at, self.then = 0.0, 0.0, lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        if before < self.at <= self.now:
            self.then()


def test_the_store_stays_while_others_take_their_last_look(monkeypatch: pytest.MonkeyPatch):
    """They ask for nothing meanwhile; the holder's own look says how long that may take."""
    clock, store, left = Clock(), HashStore(), list[float]()
    monkeypatch.setattr("chimera.finetune.store.time", clock)
    other = StoreExchange(store, run="run", holds_store=False)
    holder = StoreExchange(store, run="run", holds_store=True)

    def leave() -> None:
        other.leave()
        left.append(clock.now)

    for exchange in (other, holder):
        exchange.record(0)
    clock.sleep(30.0)
    clock.at, clock.then = 90.0, leave
    holder.leave()
    assert left
    assert clock.now < 91.0

    gone = StoreExchange(store, run="other run", holds_store=False)
    gone.record(0)
    holder = StoreExchange(store, run="other run", holds_store=True)
    began = clock.now
    holder.leave()
    assert 2.0 < clock.now - began < 3.0


def test_runs_of_other_names_do_not_meet():
    store = HashStore()
    one, other = (StoreExchange(store, run=name, holds_store=False) for name in ("one", "other"))
    one.end(0, b"record")
    assert one.record(0) == b"record"
    assert other.record(0) is None
    assert one.members == other.members == 1
