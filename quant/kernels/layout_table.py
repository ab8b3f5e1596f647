"""Operations on ternary matrices that lie otherwise than in tiles, for the one table."""

from functools import partial

from quant.kernels.forms import FORMS
from quant.kernels.operation import Case, Operation
from quant.kernels.ternary.problems import laid_problem, packing_problem
from quant.ternary import ternary_matmul
from quant.trits import pack_trits

# Every remainder of blocks by five and by eight, beside those of rows, inputs and tokens.
LAID_CASES = (
    Case(rows=1, inputs=1),
    Case(rows=31, inputs=63, tokens=2),
    Case(rows=33, inputs=65, tokens=4),
    Case(rows=64, inputs=320, tokens=16),
    Case(rows=80, inputs=200, tokens=17),
    Case(rows=97, inputs=384, tokens=3),
    Case(rows=160, inputs=512, tokens=37),
    Case(rows=64, inputs=890, tokens=5),
    Case(rows=256, inputs=1728),
)
GOLDEN_LAID = Case(rows=40, inputs=600, tokens=22)

LAYOUT_OPERATIONS: dict[str, Operation] = {
    "lookup_matmul": Operation(
        reference=ternary_matmul,
        forms=FORMS["lookup_matmul"],
        problem=partial(laid_problem, layout="columns"),
        cases=LAID_CASES,
        golden=GOLDEN_LAID,
    ),
    "trits_matmul": Operation(
        reference=ternary_matmul,
        forms=FORMS["trits_matmul"],
        problem=partial(laid_problem, layout="trits"),
        cases=LAID_CASES,
        golden=GOLDEN_LAID,
    ),
    "trits_packing": Operation(
        reference=pack_trits,
        forms=FORMS["trits_packing"],
        problem=packing_problem,
        cases=LAID_CASES,
        golden=GOLDEN_LAID,
    ),
}
