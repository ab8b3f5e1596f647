"""Run by a test in a process of its own: the recurrent operations on arrays that end where memory ends.

As in `guarded.py`, a read or a write beyond the last element of any array ends the process.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.convolution.calls import convolution_call
from quant.kernels.convolution.places import Y as CONVOLVED
from quant.kernels.convolution.reference import short_convolution
from quant.kernels.delta.calls import delta_call
from quant.kernels.delta.places import Y as DELTA_Y
from quant.kernels.delta.reference import DeltaTokens, DeltaWeights, exact_flow, gated_delta
from quant.kernels.dense.calls import dense_call
from quant.kernels.dense.places import Y as PRODUCTS
from quant.kernels.dense.reference import dense
from quant.kernels.elementary.calls import VectorCall
from quant.kernels.mlstm.calls import mlstm_call
from quant.kernels.mlstm.places import Y as MLSTM_Y
from quant.kernels.mlstm.reference import MLSTMState, MLSTMTokens, MLSTMWeights, mlstm
from quant.kernels.operation import Arrays, difference
from quant.kernels.table import OPERATIONS
from tests.quant.kernels.guarded import at_the_end

Floats = NDArray[np.float32]
EPS = np.float32(1e-6)
_rng = np.random.default_rng(0)


def some(*shape: int) -> Floats:
    """Random numbers whose last one is the last of what may be touched."""
    return at_the_end(_rng.standard_normal(shape, dtype=np.float32)).astype(np.float32, copy=False)


def check(name: str, call: VectorCall, y_place: int, right: Arrays) -> None:
    y = at_the_end(call.outputs[0])
    call.table[y_place] = y.ctypes.data
    call.run(OPERATIONS[name].forms["plain"], 0, call.units)
    assert not difference((y, *call.outputs[1:]), right), name


def products_and_convolutions() -> None:
    for size in (1, 7, 15, 16, 17, 33, 100):
        for rows, tokens in ((1, 1), (4, 1), (6, 3)):
            x, weight, bias = some(tokens, size), some(rows, size), some(rows)
            check("dense", dense_call(x, weight, bias), PRODUCTS, (dense(x, weight, bias),))
        for taps in (2, 4):
            x, weight, tail = some(2, size), some(taps, size), some(taps - 1, size)
            right = short_convolution(x, weight, tail)
            check("short_convolution", convolution_call(x, weight, tail), CONVOLVED, right)


def steps(num_tokens: int, num_heads: int, size: int) -> None:
    def wide() -> Floats:
        return some(num_tokens, num_heads * size)

    def narrow() -> Floats:
        return some(num_tokens, num_heads)

    tokens = DeltaTokens(q=wide(), k=wide(), v=wide(), alpha=narrow(), beta=narrow(), gate=wide())
    weights = DeltaWeights(rates=some(num_heads), dt_bias=some(num_heads), gain=some(size), eps=EPS)
    for name, reference in (("gated_delta", gated_delta), ("exact_flow", exact_flow)):
        memory = some(num_heads, size, size)
        right = reference(tokens, weights, memory)
        check(name, delta_call(tokens, weights, memory), DELTA_Y, right)

    gates = MLSTMTokens(q=wide(), k=wide(), v=wide(), input_gate=narrow(), forget_gate=narrow(), gate=wide())
    biases = MLSTMWeights(
        input_bias=some(num_heads), forget_bias=some(num_heads), gain=some(num_heads * size), eps=EPS
    )
    state = MLSTMState(
        memory=some(num_heads, size, size), normaliser=some(num_heads, size), log_scale=some(num_heads)
    )
    right = mlstm(gates, biases, state)
    check("mlstm", mlstm_call(gates, biases, state), MLSTM_Y, right)


if __name__ == "__main__":
    products_and_convolutions()
    for num_tokens, num_heads, size in ((1, 1, 16), (3, 3, 48), (1, 17, 64)):
        steps(num_tokens, num_heads, size)
    print("done")
