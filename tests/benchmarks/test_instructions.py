"""Instructions are counted rightly, and the code for ARM is what its forms promise."""

import pytest

from benchmarks.assembly_loops import Assembly, Cost, cheapest
from benchmarks.instructions import Row, count

# Two rows of sixteen in turn: 4 turns of 2 loops with 16 products of 16, and 8 conversions of 4 sums.
SUMS = "".join(f"\tsdot\tv{place}.4s, v{20 + place}.16b, v30.4b[0]\n" for place in range(16))
FLOATS = "".join(f"\tscvtf\tv{place}.4s, v{place}.4s\n" for place in range(8))
TEXT = f"""
\t.text
kernel:
\tmov\tx0, #0
.LBB0_1:
\tldr\tq19, [sp, #16]
.LBB0_2:
\tldp\tq0, q1, [x0]
{SUMS}\tb.ne\t.LBB0_2
.LBB0_3:
{SUMS}\tcbnz\tx3, .LBB0_3
{FLOATS}\tadd\tx1, x1, #1
\tb.ne\t.LBB0_1
\tret
"""


def test_a_loop_over_blocks_is_found_and_counted() -> None:
    (cost,) = Assembly(TEXT).block_costs()
    one_turn = 4 * (18 + 17) + 1 + 8 + 2
    assert cost == Cost(tokens=1, instructions=one_turn / 2, products=64, stack=0.5)


def test_what_is_not_understood_is_not_told() -> None:
    odd = TEXT.replace("\tsdot\tv15.4s, v35.16b, v30.4b[0]\n", "")
    assert odd != TEXT
    assert Assembly(odd).block_costs() == []
    assert Assembly("kernel:\n\tret\n").block_costs() == []


def test_of_loops_for_as_many_tokens_the_cheapest_counts() -> None:
    dear, cheap, other = (
        Cost(tokens=tokens, instructions=number, products=64, stack=0)
        for tokens, number in ((4, 200), (4, 100), (1, 300))
    )
    assert cheapest([other, dear, cheap]) == [other, cheap]


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, int], Row]:
    found = count(["aarch64-dotprod", "aarch64"], ["ternary_matmul", "int8_matmul", "exp"], [])
    return {(row.form, row.operation, row.tokens): row for row in found}


def test_dot_products_of_arm_are_all_that_the_integers_need(rows: dict[tuple[str, str, int], Row]) -> None:
    for operation in ("ternary_matmul", "int8_matmul"):
        for tokens in (1, 4):
            assert rows["neon-dot", operation, tokens].products == 64, "16 rows × 64 inputs by 16"
            assert rows["neon", operation, tokens].products == 128, "by 8"
    assert rows["neon-dot", "ternary_matmul", 4].instructions < 150
    assert rows["neon-dot", "int8_matmul", 4].instructions < 120


def test_nothing_is_fused_on_arm(rows: dict[tuple[str, str, int], Row]) -> None:
    assert {row.fused for row in rows.values()} == {0}
    assert rows["plain", "exp", 0].instructions < 200, "sixteen numbers, in registers of four"
