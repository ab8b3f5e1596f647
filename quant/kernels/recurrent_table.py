"""Operations of the recurrent mixers, for the one table."""

from quant.kernels.convolution import reference as convolution_reference
from quant.kernels.convolution.problems import convolution_problem
from quant.kernels.delta import reference as delta_reference
from quant.kernels.delta.problems import delta_problem
from quant.kernels.dense import reference as dense_reference
from quant.kernels.dense.problems import dense_problem
from quant.kernels.forms import FORMS
from quant.kernels.mlstm import reference as mlstm_reference
from quant.kernels.mlstm.problems import mlstm_problem
from quant.kernels.operation import Case, Operation

# Every remainder of rows by 4, of inputs by 16 and of tokens by 2.
DENSE_CASES = (
    Case(rows=1, inputs=1),
    Case(rows=2, inputs=15, tokens=2),
    Case(rows=4, inputs=16, tokens=3),
    Case(rows=7, inputs=33, tokens=18),
    Case(rows=13, inputs=200, tokens=5),
    Case(rows=80, inputs=384),
)
# Rows are taps. More tokens than the tail holds, fewer, and as many; blocks that are short, alone, and more
# than are done at once.
CONVOLUTION_CASES = (
    Case(rows=2, inputs=1, tokens=18),
    Case(rows=4, inputs=15),
    Case(rows=4, inputs=33, tokens=2),
    Case(rows=4, inputs=64, tokens=18),
    Case(rows=5, inputs=40, tokens=4),
    Case(rows=16, inputs=17, tokens=7),
    Case(rows=4, inputs=1129, tokens=3),
)
# Rows are heads, inputs their size. Heads and tokens in more than one group of sixteen; sizes that are and
# are not whole pairs of registers.
HEAD_STEP_CASES = (
    Case(rows=1, inputs=16),
    Case(rows=2, inputs=16, tokens=3),
    Case(rows=3, inputs=32, tokens=20),
    Case(rows=5, inputs=80, tokens=4),
    Case(rows=17, inputs=48, tokens=2),
    Case(rows=18, inputs=64),
    Case(rows=1, inputs=256, tokens=2),
)
GOLDEN_HEADS = Case(rows=17, inputs=48, tokens=18)

RECURRENT_OPERATIONS: dict[str, Operation] = {
    "dense": Operation(
        reference=dense_reference.dense,
        forms=FORMS["dense"],
        problem=dense_problem,
        cases=DENSE_CASES,
        golden=Case(rows=6, inputs=40, tokens=19),
    ),
    "short_convolution": Operation(
        reference=convolution_reference.short_convolution,
        forms=FORMS["short_convolution"],
        problem=convolution_problem,
        cases=CONVOLUTION_CASES,
        golden=Case(rows=4, inputs=40, tokens=18),
    ),
    "gated_delta": Operation(
        reference=delta_reference.gated_delta,
        forms=FORMS["gated_delta"],
        problem=delta_problem,
        cases=HEAD_STEP_CASES,
        golden=GOLDEN_HEADS,
    ),
    "exact_flow": Operation(
        reference=delta_reference.exact_flow,
        forms=FORMS["exact_flow"],
        problem=delta_problem,
        cases=HEAD_STEP_CASES,
        golden=GOLDEN_HEADS,
    ),
    "mlstm": Operation(
        reference=mlstm_reference.mlstm,
        forms=FORMS["mlstm"],
        problem=mlstm_problem,
        cases=HEAD_STEP_CASES,
        golden=GOLDEN_HEADS,
    ),
}
"""Name: the operation."""
