"""Tokens, gates and states for the matrix LSTM's step."""

import numpy as np

from quant.kernels.delta.problems import preactivations, vectors
from quant.kernels.mlstm.calls import mlstm_call
from quant.kernels.mlstm.reference import MLSTMState, MLSTMTokens, MLSTMWeights
from quant.kernels.norm.problems import EPS, gains
from quant.kernels.operation import Case, Kernel, Problem


def mlstm_problem(case: Case, rng: np.random.Generator) -> Problem:
    """The case's rows are heads and its inputs a head's size. Some heads have not remembered anything yet.

    An odd number of heads has output gates, an odd number of tokens exponential input gates.
    """
    width = case.rows * case.inputs
    tokens = MLSTMTokens(
        q=vectors(case.tokens, width, rng),
        k=vectors(case.tokens, width, rng),
        v=vectors(case.tokens, width, rng),
        input_gate=preactivations(case.tokens, case.rows, rng),
        forget_gate=preactivations(case.tokens, case.rows, rng),
        gate=vectors(case.tokens, width, rng) if case.rows % 2 else None,
    )
    weights = MLSTMWeights(
        input_bias=rng.standard_normal(case.rows, dtype=np.float32),
        forget_bias=rng.uniform(3, 6, case.rows).astype(np.float32),
        gain=gains(width, rng),
        eps=EPS,
        exponential_gating=case.tokens % 2 == 1,
    )
    state = _state(case, rng)
    held = MLSTMState(
        memory=np.empty_like(state.memory),
        normaliser=np.empty_like(state.normaliser),
        log_scale=np.empty_like(state.log_scale),
    )
    call = mlstm_call(tokens, weights, held)

    def run(kernel: Kernel, first: int, last: int) -> None:
        """A part of the work begins with the state of its heads."""
        held.memory[first:last] = state.memory[first:last]
        held.normaliser[first:last] = state.normaliser[first:last]
        held.log_scale[first:last] = state.log_scale[first:last]
        call.run(kernel, first, last)

    return Problem(run=run, units=call.units, outputs=call.outputs, inputs=(tokens, weights, state))


def _state(case: Case, rng: np.random.Generator) -> MLSTMState:
    memory = rng.standard_normal((case.rows, case.inputs, case.inputs), dtype=np.float32)
    normaliser = rng.standard_normal((case.rows, case.inputs), dtype=np.float32)
    log_scale = rng.uniform(-20, 20, case.rows).astype(np.float32)
    fresh = rng.random(case.rows) < 0.3
    memory[fresh], normaliser[fresh], log_scale[fresh] = 0, 0, -np.inf
    return MLSTMState(memory=memory, normaliser=normaliser, log_scale=log_scale)
