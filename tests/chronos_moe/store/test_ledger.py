"""Which passes calls take, by what compiled code wrote down."""

from chronos_moe.store.ledger import Ledger

ORDER = (0, 1, 2, 1, 2, 3)
SHORT = (0, 1, 2, 5)
"""A call of one round takes these places."""


def test_passes_that_calls_leave_out_are_left_out():
    ledger = Ledger(num_layers=4, num_experts=2, most_passes=len(ORDER))
    assert ledger.passes_taken(ORDER) == (ORDER, 0)

    def take(place: int) -> None:
        ledger.clock += 1
        ledger.place[0] = place
        ledger.begun[place] = ledger.clock[0]

    for _ in range(2):
        for place in SHORT:
            take(place)
    assert ledger.passes_taken(ORDER) == ((0, 1, 2, 3), 3)
    ledger.place[0] = -1
    assert ledger.passes_taken(ORDER) == ((0, 1, 2, 3), -1)
    take(0)
    assert ledger.passes_taken(ORDER) == ((0, 1, 2, 3), 0)
    for place in range(1, len(ORDER)):
        take(place)
    assert ledger.passes_taken(ORDER) == (ORDER, 5)
