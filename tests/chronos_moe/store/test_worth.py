"""What compiled code thinks that experts are worth is what the policies say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronos_moe.store.desk import Desk
from chronos_moe.store.ledger import Ledger
from chronos_moe.store.manifest import Place
from chronos_moe.store.policy import POLICIES, PolicyName, Residents
from chronos_moe.store.slots import Slots
from quant.kernels.experts import reading_places as at
from quant.native import NamedKernel

put_worth = NamedKernel("quant.kernels.experts.worth", "put_worth", 2)
passes_until = NamedKernel("quant.kernels.experts.worth", "passes_until", 2)

LAYERS, NUM_EXPERTS = 3, 4
ORDER = (0, 1, 2, 1, 2, 1, 2)
"""A layer before a loop, and two in it, for three rounds at most."""
CALLS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2**16), st.booleans()), min_size=1, max_size=8)


class Books:
    """A ledger that runs calls as compiled code does, and both forms of a policy."""

    def __init__(self, policy: PolicyName) -> None:
        size = LAYERS * NUM_EXPERTS
        self.ledger = Ledger(num_layers=LAYERS, num_experts=NUM_EXPERTS, most_passes=len(ORDER))
        self.desk = Desk(
            Slots(num_slots=2, block_bytes=4096),
            self.ledger,
            places=[Place(cluster=0, offset=0, digest="")] * size,
            order=ORDER,
            policy=policy,
        )
        self.plain = Residents(
            order=ORDER,
            num_experts=NUM_EXPERTS,
            last_visits=self.ledger.last_visits,
            visits=self.ledger.visits,
            loaded=np.zeros(size, dtype=np.int64),
        )
        self.policy: PolicyName = policy

    def run(self, rounds: int, *, seed: int) -> None:
        """A call of so many rounds, up to some pass of it."""
        ledger, draws = self.ledger, np.random.default_rng(seed)
        passes = list(range(1 + 2 * rounds))
        for number in passes[: int(draws.integers(1, len(passes) + 1))]:
            ledger.clock[0] += 1
            visited = ORDER[number] * NUM_EXPERTS + draws.choice(NUM_EXPERTS, 2, replace=False)
            ledger.last_visits[visited] = ledger.begun[number] = ledger.clock[0]
            ledger.visits[visited] += 1
            ledger.place[0] = number
            came = int(draws.integers(ledger.words.size))
            self.plain.loaded[came] = self.desk._records[came, at.LOADED] = ledger.clock[0]

    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """The worth by compiled code, and the plain one."""
        found = np.empty(self.ledger.words.size)
        put_worth(self.desk.address, found.ctypes.data)
        self.plain.clock = int(self.ledger.clock[0])
        self.plain.order, self.plain.place = self.ledger.passes_taken(ORDER)
        return found, POLICIES[self.policy](self.plain)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=40, deadline=None)
@given(calls=CALLS)
def test_worth_is_what_the_policy_says(policy: PolicyName, calls: list[tuple[int, int, bool]]):
    books = Books(policy)
    for rounds, seed, is_asked in calls:
        # Whole calls, so that what comes next is plain; and the last one up to any pass.
        books.run(rounds, seed=seed)
        if is_asked and policy != "least-stale":
            found, expected = books.both()
            assert np.allclose(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("calls", [3, 5])
def test_the_layer_that_comes_latest_is_worth_least(rounds: int, calls: int):
    books = Books("least-stale")
    ledger = books.ledger
    for call in range(calls):
        for number in range(1 + 2 * rounds):
            ledger.clock[0] += 1
            ledger.begun[number] = ledger.clock[0]
            ledger.last_visits[ORDER[number] * NUM_EXPERTS] = ledger.clock[0]
            ledger.place[0] = number
            if call == calls - 1 and ledger.clock[0] >= len(ORDER):
                found, expected = books.both()
                order, place = ledger.passes_taken(ORDER)
                later = (*order[place + 1 :], *order)
                for row in range(LAYERS):
                    assert passes_until(books.desk.address, row) == later.index(row) + 1
                assert np.array_equal(found, expected)
