"""Problems of the products with ternary weights."""

import numpy as np
from numpy.typing import NDArray

from quant.activations import quantize_activations
from quant.kernels.calls import Call, laid_call, ternary_call
from quant.kernels.operation import Case, Problem
from quant.kernels.trits.calls import packing_call
from quant.layout_names import Layout
from quant.layouts import laid_out
from quant.packing import pack_ternary
from quant.ternary import TernaryWeights, num_groups


def ternary_problem(case: Case, rng: np.random.Generator) -> Problem:
    """A ternary matrix times tokens."""
    weights, acts = random_ternary(case, rng), quantize_activations(tokens(case, rng))
    return _problem(ternary_call(pack_ternary(weights), acts), weights, acts)


def laid_problem(case: Case, rng: np.random.Generator, *, layout: Layout) -> Problem:
    """The same of a matrix that lies otherwise than in tiles."""
    weights, acts = random_ternary(case, rng), quantize_activations(tokens(case, rng))
    return _problem(laid_call(laid_out(pack_ternary(weights), layout=layout), acts), weights, acts)


def packing_problem(case: Case, rng: np.random.Generator) -> Problem:
    """A matrix in tiles, to be packed into 1.6 bits."""
    packed = pack_ternary(random_ternary(case, rng))
    call = packing_call(packed)
    return Problem(run=call.run, units=call.units, outputs=call.outputs, inputs=(packed,))


def random_ternary(case: Case, rng: np.random.Generator) -> TernaryWeights:
    """Scales go down to float16's subnormals, as real ones do."""
    codes = rng.integers(-1, 2, (case.rows, case.inputs), dtype=np.int8)
    shape = (case.rows, num_groups(case.inputs, group_size=128))
    scales = np.ldexp(rng.uniform(1, 2, shape), rng.integers(-17, 1, shape)).astype(np.float16)
    return TernaryWeights(codes=codes, scales=scales, group_size=128)


def tokens(case: Case, rng: np.random.Generator) -> NDArray[np.float32]:
    """Tokens of very different sizes; in some runs of 64 inputs every code is the largest, of either sign."""
    tokens = rng.standard_normal((case.tokens, case.inputs), dtype=np.float32)
    tokens = np.ldexp(tokens, rng.integers(-12, 12, (case.tokens, 1)))
    extreme = np.repeat(rng.random(case.inputs // 64 + 1) < 0.25, 64)[: case.inputs]
    tokens[:, extreme] = np.copysign(np.float32(3.0), tokens[:, extreme])
    return tokens


def _problem(call: Call, *inputs: object) -> Problem:
    return Problem(run=call.run, units=call.units, outputs=(call.y,), inputs=inputs)
