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
from quant.kernels.calls import Call, lookup_call, rows_call, selected_rows_call, ternary_call
from quant.kernels.elementary import kernels as elementary
from quant.kernels.elementary import reference as elementary_reference
from quant.kernels.elementary.problems import function_problem, rotation_problem
from quant.kernels.norm import kernels as norm
from quant.kernels.norm import reference as norm_reference
from quant.kernels.norm.problems import quantize_problem, rms_norm_problem, rms_norm_quantize_problem
from quant.kernels.operation import Case, Operation, Problem
from quant.kernels.recurrent_table import RECURRENT_OPERATIONS
from quant.kernels.rows import int2, int4, int8, lookup
from quant.kernels.stream_table import STREAM_OPERATIONS
from quant.kernels.swiglu import kernels as gated
from quant.kernels.swiglu import reference as gated_reference
from quant.kernels.swiglu.problems import (
    swiglu_norm_quantize_problem,
    swiglu_problem,
    swiglu_quantize_problem,
)
from quant.kernels.ternary import avx2, plain, vnni
from quant.kernels.titans import kernels as titans_kernels
from quant.kernels.titans import reference as titans_reference
from quant.kernels.titans.problems import titans_problem
from quant.kernels.vocabulary import kernels as vocabulary
from quant.kernels.vocabulary import reference as vocabulary_reference
from quant.kernels.vocabulary.problems import weights_problem
from quant.packing import pack_rows, pack_ternary
from quant.ternary import TernaryWeights, num_groups, ternary_matmul


def ternary_problem(case: Case, rng: np.random.Generator) -> Problem:
    """A ternary matrix times tokens. Scales go down to float16's subnormals, as real ones do."""
    codes = rng.integers(-1, 2, (case.rows, case.inputs), dtype=np.int8)
    exponents = rng.uniform(-17, 2, (case.rows, num_groups(case.inputs, group_size=128)))
    weights = TernaryWeights(codes=codes, scales=np.exp2(exponents).astype(np.float16), group_size=128)
    acts = quantize_activations(_tokens(case, rng))
    return _problem(ternary_call(pack_ternary(weights), acts), weights, acts)


def rows_problem(case: Case, rng: np.random.Generator, *, bits: RowBits) -> Problem:
    """A table of rows times tokens."""
    rows, acts = _rows(case, rng, bits=bits), quantize_activations(_tokens(case, rng))
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


def _tokens(case: Case, rng: np.random.Generator) -> NDArray[np.float32]:
    """Tokens of very different sizes; in some runs of 64 inputs every code is the largest, of either sign."""
    tokens = rng.standard_normal((case.tokens, case.inputs), dtype=np.float32)
    tokens *= np.exp2(rng.integers(-12, 12, (case.tokens, 1))).astype(np.float32)
    extreme = np.repeat(rng.random(case.inputs // 64 + 1) < 0.25, 64)[: case.inputs]
    tokens[:, extreme] = np.copysign(np.float32(3.0), tokens[:, extreme])
    return tokens


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
        forms={"avx512vnni": vnni.matmul, "avx2": avx2.matmul, "plain": plain.matmul},
        problem=ternary_problem,
        cases=MATMUL_CASES,
        golden=Case(rows=40, inputs=600, tokens=22),
    ),
    "int8_matmul": Operation(
        reference=rows_matmul,
        forms={"avx512vnni": int8.matmul_vnni, "avx2": int8.matmul_avx2, "plain": int8.matmul_plain},
        problem=partial(rows_problem, bits=8),
        cases=MATMUL_CASES,
        golden=GOLDEN,
    ),
    "int4_matmul": Operation(
        reference=rows_matmul,
        forms={"avx512vnni": int4.matmul_vnni, "avx2": int4.matmul_avx2, "plain": int4.matmul_plain},
        problem=partial(rows_problem, bits=4),
        cases=MATMUL_CASES,
        golden=GOLDEN,
    ),
    "int2_matmul": Operation(
        reference=rows_matmul,
        forms={"avx512vnni": int2.matmul_vnni, "avx2": int2.matmul_avx2, "plain": int2.matmul_plain},
        problem=partial(rows_problem, bits=2),
        cases=MATMUL_CASES,
        golden=GOLDEN,
    ),
    "int8_selected": Operation(
        reference=selected_rows,
        forms={"avx512vnni": int8.selected_vnni, "avx2": int8.selected_avx2, "plain": int8.selected_plain},
        problem=partial(selected_problem, bits=8),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int4_selected": Operation(
        reference=selected_rows,
        forms={"avx512vnni": int4.selected_vnni, "avx2": int4.selected_avx2, "plain": int4.selected_plain},
        problem=partial(selected_problem, bits=4),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int2_selected": Operation(
        reference=selected_rows,
        forms={"avx512vnni": int2.selected_vnni, "avx2": int2.selected_avx2, "plain": int2.selected_plain},
        problem=partial(selected_problem, bits=2),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int8_lookup": Operation(
        reference=lookup_rows,
        forms={"plain": lookup.lookup_int8},
        problem=partial(lookup_problem, bits=8),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int4_lookup": Operation(
        reference=lookup_rows,
        forms={"plain": lookup.lookup_int4},
        problem=partial(lookup_problem, bits=4),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    "int2_lookup": Operation(
        reference=lookup_rows,
        forms={"plain": lookup.lookup_int2},
        problem=partial(lookup_problem, bits=2),
        cases=LIST_CASES,
        golden=GOLDEN,
    ),
    # One source serves every CPU here: LLVM lowers its registers to those that there are.
    "exp": Operation(
        reference=elementary_reference.exp,
        forms={"plain": elementary.exp},
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "log": Operation(
        reference=elementary_reference.log,
        forms={"plain": elementary.log},
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "sigmoid": Operation(
        reference=elementary_reference.sigmoid,
        forms={"plain": elementary.sigmoid},
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "softplus": Operation(
        reference=elementary_reference.softplus,
        forms={"plain": elementary.softplus},
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "silu": Operation(
        reference=elementary_reference.silu,
        forms={"plain": elementary.silu},
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "tanh": Operation(
        reference=elementary_reference.tanh,
        forms={"plain": elementary.tanh},
        problem=function_problem,
        cases=NUMBER_CASES,
        golden=Case(inputs=500),
    ),
    "rotation_angles": Operation(
        reference=elementary_reference.rotation_angles,
        forms={"plain": elementary.rotation_angles},
        problem=rotation_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "quantize_blocks": Operation(
        reference=norm_reference.quantize_blocks,
        forms={"plain": norm.quantize},
        problem=quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "rms_norm": Operation(
        reference=norm_reference.rms_norm,
        forms={"plain": norm.rms_norm},
        problem=rms_norm_problem,
        cases=HEAD_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "rms_norm_quantize": Operation(
        reference=norm_reference.rms_norm_quantize,
        forms={"plain": norm.rms_norm_quantize},
        problem=rms_norm_quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "swiglu": Operation(
        reference=gated_reference.swiglu,
        forms={"plain": gated.swiglu},
        problem=swiglu_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "swiglu_quantize": Operation(
        reference=gated_reference.swiglu_quantize,
        forms={"plain": gated.swiglu_quantize},
        problem=swiglu_quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "swiglu_norm_quantize": Operation(
        reference=gated_reference.swiglu_norm_quantize,
        forms={"plain": gated.swiglu_norm_quantize},
        problem=swiglu_norm_quantize_problem,
        cases=VECTOR_CASES,
        golden=GOLDEN_VECTOR,
    ),
    "vocabulary_weights": Operation(
        reference=vocabulary_reference.weights,
        forms={"plain": vocabulary.weights},
        problem=weights_problem,
        cases=CHUNK_CASES,
        golden=Case(inputs=4500),
    ),
    "titans": Operation(
        reference=titans_reference.titans,
        forms={"plain": titans_kernels.titans},
        problem=titans_problem,
        cases=TITANS_CASES,
        golden=GOLDEN_TITANS,
    ),
    **RECURRENT_OPERATIONS,
    **STREAM_OPERATIONS,
}
"""Name: the operation. The names with `int8`, `int4` and `int2` are those of embeddings and heads."""
