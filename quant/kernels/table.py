"""The one table of operations: the reference, the forms and the cases of each.

It drives the tests, the benchmarks, the self-check and the choice of forms. All forms of an operation give
the bits of its reference, on any CPU, for any split of the work.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.activations import QuantizedActivations, quantize_activations
from quant.embedding import RowBits, RowWeights, lookup_rows, quantize_rows, rows_matmul
from quant.kernels.calls import (
    Call,
    lookup_call,
    rows_call,
    selected_rows_call,
    sherry_call,
)
from quant.kernels.elementary import reference as elementary_reference
from quant.kernels.elementary.problems import function_problem, rotation_problem
from quant.kernels.forms import FORMS
from quant.kernels.layout_table import LAYOUT_OPERATIONS
from quant.kernels.norm import reference as norm_reference
from quant.kernels.norm.problems import quantize_problem, rms_norm_problem, rms_norm_quantize_problem
from quant.kernels.operation import Case, Operation, Problem
from quant.kernels.recurrent_table import RECURRENT_OPERATIONS
from quant.kernels.stream_table import STREAM_OPERATIONS
from quant.kernels.swiglu import reference as gated_reference
from quant.kernels.swiglu.problems import (
    swiglu_norm_quantize_problem,
    swiglu_problem,
    swiglu_quantize_problem,
)
from quant.kernels.ternary.problems import ternary_problem, tokens
from quant.kernels.titans import reference as titans_reference
from quant.kernels.titans.problems import titans_problem
from quant.kernels.vocabulary import reference as vocabulary_reference
from quant.kernels.vocabulary.problems import weights_problem
from quant.packing import pack_rows
from quant.sherry import quantize_sherry
from quant.sherry_packing import pack_sherry
from quant.ternary import TernaryWeights, ternary_matmul


def sherry_problem(case: Case, rng: np.random.Generator) -> Problem:
    """A ternary matrix with one zero in every four times tokens."""
    drawn = quantize_sherry(rng.standard_normal((case.rows, case.inputs), dtype=np.float32))
    exponents = rng.uniform(-17, 2, drawn.scales.shape)
    weights = TernaryWeights(codes=drawn.codes, scales=np.exp2(exponents).astype(np.float16), group_size=128)
    acts = quantize_activations(tokens(case, rng))
    return _problem(sherry_call(pack_sherry(weights), acts), weights, acts)


def rows_problem(case: Case, rng: np.random.Generator, *, bits: RowBits) -> Problem:
    """A table of rows times tokens."""
    rows, acts = _rows(case, rng, bits=bits), quantize_activations(tokens(case, rng))
    return _problem(rows_call(pack_rows(rows), acts), rows, acts)


def selected_problem(case: Case, rng: np.random.Generator, *, bits: RowBits) -> Problem:
    """One token times as many rows of the table as the case has tokens, some of them twice."""
    rows = _rows(case, rng, bits=bits)
    acts = quantize_activations(rng.standard_normal((1, case.inputs), dtype=np.float32))
    ids = rng.integers(0, case.rows, case.tokens)
    return _problem(selected_rows_call(pack_rows(rows), acts, ids), rows, acts, ids)


def lookup_problem(case: Case, rng: np.random.Generator, *, bits: RowBits) -> Problem:
    """As many rows of the table as the case has tokens."""
    rows, ids = _rows(case, rng, bits=bits), rng.integers(0, case.rows, case.tokens)
    return _problem(lookup_call(pack_rows(rows), ids), rows, ids)


def selected_rows(
    rows: RowWeights, acts: QuantizedActivations, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The reference of a product with chosen rows."""
    return rows_matmul(rows, acts)[:, ids]


def _rows(case: Case, rng: np.random.Generator, *, bits: RowBits) -> RowWeights:
    return quantize_rows(rng.standard_normal((case.rows, case.inputs), dtype=np.float32), bits=bits)


def _problem(call: Call, *inputs: Any) -> Problem:
    return Problem(run=call.run, units=call.units, outputs=(call.y,), inputs=inputs)


# Every remainder of rows by 32, of inputs by 64 and 128, and of tokens by 16 and 4 meets the others
# somewhere.
MATMUL_CASES = (
    Case(rows=1, inputs=1),
    Case(rows=31, inputs=63, tokens=2),
    Case(rows=32, inputs=64, tokens=3),
    Case(rows=33, inputs=65, tokens=4),
    Case(rows=97, inputs=128, tokens=7),
    Case(rows=64, inputs=129, tokens=16),
    Case(rows=80, inputs=200, tokens=17),
    Case(rows=160, inputs=448, tokens=37),
    Case(rows=256, inputs=1728, tokens=1),
    Case(rows=96, inputs=576, tokens=128),
)
LIST_CASES = (
    Case(rows=1, inputs=1, tokens=1),
    Case(rows=33, inputs=65, tokens=40),
    Case(rows=500, inputs=384, tokens=64),
)
GOLDEN = Case(rows=40, inputs=200, tokens=22)

# Every remainder by 16 and by 64; registers that are whole, cut, and alone.
NUMBER_CASES = (Case(inputs=1), Case(inputs=15), Case(inputs=16), Case(inputs=33), Case(inputs=3000))
VECTOR_CASES = (
    Case(inputs=1, tokens=18),
    Case(inputs=15, tokens=3),
    Case(inputs=16, tokens=4),
    Case(inputs=63, tokens=17),
    Case(inputs=64, tokens=17),
    Case(inputs=65, tokens=16),
    Case(inputs=200, tokens=18),
    Case(inputs=1728),
    Case(inputs=2560, tokens=2),
)
HEAD_CASES = (
    *VECTOR_CASES,
    Case(rows=3, inputs=1, tokens=4),
    Case(rows=5, inputs=20, tokens=18),
    Case(rows=40, inputs=64, tokens=3),
)
GOLDEN_VECTOR = Case(inputs=150, tokens=18)
CHUNK_CASES = (*NUMBER_CASES, Case(inputs=4096), Case(inputs=4097), Case(inputs=20001))
# Rows are heads, inputs their size: less than a register, parts of a block, whole blocks, more than one.
TITANS_CASES = (
    Case(rows=1, inputs=2, tokens=3),
    Case(rows=2, inputs=24, tokens=9),
    Case(rows=2, inputs=64, tokens=40),
    Case(rows=3, inputs=64, tokens=1),
    Case(rows=4, inputs=64, tokens=5),
    Case(rows=3, inputs=80, tokens=30),
    Case(rows=1, inputs=256, tokens=2),
    Case(rows=5, inputs=40, tokens=45),
)
GOLDEN_TITANS = Case(rows=2, inputs=72, tokens=25)

OPERATIONS: dict[str, Operation] = {
    "ternary_matmul": Operation(
        reference=ternary_matmul,
        forms=FORMS["ternary_matmul"],
        problem=ternary_problem,
        cases=MATMUL_CASES,
        golden=Case(rows=40, inputs=600, tokens=22),
    ),
    **LAYOUT_OPERATIONS,
    "sherry_matmul": Operation(
        reference=ternary_matmul,
        forms=FORMS["sherry_matmul"],
        problem=sherry_problem,
        cases=MATMUL_CASES,
        golden=Case(rows=40, inputs=600, tokens=22),
    ),
    "int8_matmul": Operation(
        reference=rows_matmul,
        forms=FORMS["int8_matmul"],
        problem=partial(rows_problem, bits=8),
        cases=MATMUL_CASES,
        golden=GOLDEN,
    ),
    "int4_matmul": Operation(
        reference=rows_matmul,
        forms=FORMS["int4_matmul"],
        problem=partial(rows_problem, bits=4),
        cases=MATMUL_CASES,
        golden=GOLDEN,
    ),
    "int2_matmul": Operation(
        reference=rows_matmul,
        forms=FORMS["int2_matmul"],
        problem=partial(rows_problem, bits=2),
        cases=MATMUL_CASES,
        golden=GOLDEN,
    ),
    "int8_selected": Operation(
        reference=selected_rows,
        forms=FORMS["int8_selected"],
        problem=partial(selected_problem, bits=8),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int4_selected": Operation(
        reference=selected_rows,
        forms=FORMS["int4_selected"],
        problem=partial(selected_problem, bits=4),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int2_selected": Operation(
        reference=selected_rows,
        forms=FORMS["int2_selected"],
        problem=partial(selected_problem, bits=2),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int8_lookup": Operation(
        reference=lookup_rows,
        forms=FORMS["int8_lookup"],
        problem=partial(lookup_problem, bits=8),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int4_lookup": Operation(
        reference=lookup_rows,
        forms=FORMS["int4_lookup"],
        problem=partial(lookup_problem, bits=4),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int2_lookup": Operation(
        reference=lookup_rows,
        forms=FORMS["int2_lookup"],
        problem=partial(lookup_problem, bits=2),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    # One source serves every CPU here: LLVM lowers its registers to those that there are.
    "exp": Operation(
        reference=elementary_reference.exp,
        forms=FORMS["exp"],
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "log": Operation(
        reference=elementary_reference.log,
        forms=FORMS["log"],
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "sigmoid": Operation(
        reference=elementary_reference.sigmoid,
        forms=FORMS["sigmoid"],
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "softplus": Operation(
        reference=elementary_reference.softplus,
        forms=FORMS["softplus"],
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "silu": Operation(
        reference=elementary_reference.silu,
        forms=FORMS["silu"],
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "tanh": Operation(
        reference=elementary_reference.tanh,
        forms=FORMS["tanh"],
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "rotation_angles": Operation(
        reference=elementary_reference.rotation_angles,
        forms=FORMS["rotation_angles"],
        problem=rotation_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "quantize_blocks": Operation(
        reference=norm_reference.quantize_blocks,
        forms=FORMS["quantize_blocks"],
        problem=quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "rms_norm": Operation(
        reference=norm_reference.rms_norm,
        forms=FORMS["rms_norm"],
        problem=rms_norm_problem,
        cases=HEAD_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "rms_norm_quantize": Operation(
        reference=norm_reference.rms_norm_quantize,
        forms=FORMS["rms_norm_quantize"],
        problem=rms_norm_quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "swiglu": Operation(
        reference=gated_reference.swiglu,
        forms=FORMS["swiglu"],
        problem=swiglu_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "swiglu_quantize": Operation(
        reference=gated_reference.swiglu_quantize,
        forms=FORMS["swiglu_quantize"],
        problem=swiglu_quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "swiglu_norm_quantize": Operation(
        reference=gated_reference.swiglu_norm_quantize,
        forms=FORMS["swiglu_norm_quantize"],
        problem=swiglu_norm_quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "vocabulary_weights": Operation(
        reference=vocabulary_reference.weights,
        forms=FORMS["vocabulary_weights"],
        problem=weights_problem,
        cases=CHUNK_CASES,
        golden=Case(inputs=4500),
    ),
    "titans": Operation(
        reference=titans_reference.titans,
        forms=FORMS["titans"],
        problem=titans_problem,
        cases=TITANS_CASES,
        golden=GOLDEN_TITANS,
    ),
    **RECURRENT_OPERATIONS,
    **STREAM_OPERATIONS,
}
"""Name: the operation. The names with `int8`, `int4` and `int2` are those of embeddings and heads."""
