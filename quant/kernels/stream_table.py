"""Operations around the mixers, for the one table: the residual stream, the rounds of a loop, experts."""

from quant.kernels.experts import reference as experts_reference
from quant.kernels.experts.problems import choose_problem, weigh_problem
from quant.kernels.forms import FORMS
from quant.kernels.operation import Case, Operation
from quant.kernels.residual import reference as residual_reference
from quant.kernels.residual.problems import add_norm_both_problem, add_rows_problem, norm_both_problem
from quant.kernels.rounds import reference as rounds_reference
from quant.kernels.rounds.problems import keep_rounds_problem, mix_rounds_problem, scale_rows_problem

ROW_CASES = (
    Case(inputs=1, tokens=18),
    Case(inputs=15, tokens=5),
    Case(inputs=64, tokens=17),
    Case(inputs=65, tokens=16),
    Case(inputs=200, tokens=18),
    Case(inputs=384),
)
EXPERT_CASES = (
    Case(rows=1, inputs=2, tokens=18),
    Case(rows=2, inputs=4, tokens=18),
    Case(rows=2, inputs=16, tokens=17),
    Case(rows=17, inputs=17, tokens=18),
    Case(rows=5, inputs=200, tokens=3),
)
GOLDEN_ROWS = Case(inputs=150, tokens=18)
GOLDEN_EXPERTS = Case(rows=3, inputs=37, tokens=18)

STREAM_OPERATIONS: dict[str, Operation] = {
    "add_rows": Operation(
        reference=residual_reference.add_rows,
        forms=FORMS["add_rows"],
        problem=add_rows_problem,
        cases=ROW_CASES,
        golden=GOLDEN_ROWS,
    ),
    "norm_both": Operation(
        reference=residual_reference.norm_both,
        forms=FORMS["norm_both"],
        problem=norm_both_problem,
        cases=ROW_CASES,
        golden=GOLDEN_ROWS,
    ),
    "add_norm_both": Operation(
        reference=residual_reference.add_norm_both,
        forms=FORMS["add_norm_both"],
        problem=add_norm_both_problem,
        cases=ROW_CASES,
        golden=GOLDEN_ROWS,
    ),
    "scale_rows": Operation(
        reference=rounds_reference.scale_rows,
        forms=FORMS["scale_rows"],
        problem=scale_rows_problem,
        cases=ROW_CASES,
        golden=GOLDEN_ROWS,
    ),
    "mix_rounds": Operation(
        reference=rounds_reference.mix_rounds,
        forms=FORMS["mix_rounds"],
        problem=mix_rounds_problem,
        cases=ROW_CASES,
        golden=GOLDEN_ROWS,
    ),
    "keep_rounds": Operation(
        reference=rounds_reference.keep_rounds,
        forms=FORMS["keep_rounds"],
        problem=keep_rounds_problem,
        cases=ROW_CASES,
        golden=GOLDEN_ROWS,
    ),
    "choose_experts": Operation(
        reference=experts_reference.choose,
        forms=FORMS["choose_experts"],
        problem=choose_problem,
        cases=EXPERT_CASES,
        golden=GOLDEN_EXPERTS,
    ),
    "weigh_experts": Operation(
        reference=experts_reference.weigh,
        forms=FORMS["weigh_experts"],
        problem=weigh_problem,
        cases=EXPERT_CASES,
        golden=GOLDEN_EXPERTS,
    ),
}
