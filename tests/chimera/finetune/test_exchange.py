"""Where workers meet, and what they are told when they cannot."""

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


def test_runs_of_other_names_do_not_meet():
    store = HashStore()
    one, other = (StoreExchange(store, run=name, holds_store=False) for name in ("one", "other"))
    one.end(0, b"record")
    assert one.record(0) == b"record"
    assert other.record(0) is None
    assert one.members == other.members == 1
