"""The matrix LSTM's steps: what they remember, any size and cut, what is not finite, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.delta.problems import preactivations, vectors
from quant.kernels.mlstm import kernels
from quant.kernels.mlstm.calls import mlstm_call
from quant.kernels.mlstm.problems import mlstm_problem
from quant.kernels.mlstm.reference import MLSTMState, MLSTMTokens, MLSTMWeights
from quant.kernels.operation import Arrays, Case, difference, expected, solve
from quant.kernels.table import OPERATIONS

Floats = NDArray[np.float32]


def some_tokens(num_tokens: int, num_heads: int, size: int, *, seed: int = 0) -> MLSTMTokens:
    rng = np.random.default_rng(seed)
    wide, narrow = (num_tokens, num_heads * size), (num_tokens, num_heads)
    return MLSTMTokens(
        q=vectors(*wide, rng),
        k=vectors(*wide, rng),
        v=vectors(*wide, rng),
        input_gate=preactivations(*narrow, rng),
        forget_gate=preactivations(*narrow, rng),
        gate=vectors(*wide, rng),
    )


def some_weights(num_heads: int, size: int) -> MLSTMWeights:
    return MLSTMWeights(
        input_bias=np.linspace(-1, 1, num_heads, dtype=np.float32),
        forget_bias=np.linspace(3, 6, num_heads, dtype=np.float32),
        gain=np.linspace(0.5, 2, num_heads * size, dtype=np.float32),
        eps=np.float32(1e-6),
    )


def empty(num_heads: int, size: int) -> MLSTMState:
    return MLSTMState(
        memory=np.zeros((num_heads, size, size), dtype=np.float32),
        normaliser=np.zeros((num_heads, size), dtype=np.float32),
        log_scale=np.full(num_heads, -np.inf, dtype=np.float32),
    )


def part_of(tokens: MLSTMTokens, part: slice) -> MLSTMTokens:
    assert tokens.gate is not None
    return MLSTMTokens(
        q=tokens.q[part],
        k=tokens.k[part],
        v=tokens.v[part],
        input_gate=tokens.input_gate[part],
        forget_gate=tokens.forget_gate[part],
        gate=tokens.gate[part],
    )


def done(tokens: MLSTMTokens, weights: MLSTMWeights, state: MLSTMState) -> Arrays:
    held = MLSTMState(
        memory=state.memory.copy(), normaliser=state.normaliser.copy(), log_scale=state.log_scale.copy()
    )
    call = mlstm_call(tokens, weights, held)
    call.outputs[0].view(np.uint8)[...] = 0xFF
    call.run(kernels.mlstm, 0, call.units)
    return call.outputs


def state_of(outputs: Arrays) -> MLSTMState:
    return MLSTMState(memory=outputs[1], normaliser=outputs[2], log_scale=outputs[3])


@given(st.integers(1, 19), st.sampled_from([16, 32, 48]), st.integers(1, 18), st.integers(0, 2**32))
@settings(max_examples=30)
def test_any_size_equals_the_reference(heads: int, size: int, tokens: int, seed: int) -> None:
    problem = mlstm_problem(Case(rows=heads, inputs=size, tokens=tokens), np.random.default_rng(seed))
    right = expected(OPERATIONS["mlstm"], problem)
    assert not difference(solve(problem, kernels.mlstm, parts=2), right)
    assert all(np.isfinite(array).all() for array in right)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=20)
def test_a_cut_changes_nothing(lengths: list[int]) -> None:
    tokens, weights = some_tokens(sum(lengths), 3, 32), some_weights(3, 32)
    whole = done(tokens, weights, empty(3, 32))
    parts: list[Floats] = []
    outputs, state, start = whole, empty(3, 32), 0
    for length in lengths:
        outputs = done(part_of(tokens, slice(start, start + length)), weights, state)
        parts.append(outputs[0])
        state, start = state_of(outputs), start + length
    assert not difference((np.concatenate(parts), *outputs[1:]), whole)


def test_a_closed_forget_gate_leaves_the_last_token_alone() -> None:
    tokens, weights = some_tokens(4, 2, 16, seed=1), some_weights(2, 16)
    tokens.input_gate[...] = np.clip(tokens.input_gate, -3, 3)
    tokens.forget_gate[3] = -1e4
    together = done(tokens, weights, empty(2, 16))
    alone = done(part_of(tokens, slice(3, 4)), weights, empty(2, 16))
    assert not difference((together[0][3:], *together[1:]), alone)


def test_the_largest_input_gate_is_remembered() -> None:
    """One token speaks a thousand times as loud as all after it, and is what a query of its key gives."""
    size, rng = 32, np.random.default_rng(0)
    tokens = some_tokens(50, 1, size)
    tokens.q[...], tokens.k[...] = rng.standard_normal((2, 50, size), dtype=np.float32)
    tokens.v[...] = rng.standard_normal((50, size), dtype=np.float32)
    tokens.forget_gate[...], tokens.input_gate[...] = 100, 0
    tokens.input_gate[7], tokens.q[49] = 30, tokens.k[7]
    weights = replace(some_weights(1, size), gain=np.ones(size, dtype=np.float32))
    y = done(replace(tokens, gate=None), weights, empty(1, size))[0][49]
    right = tokens.v[7] / np.sqrt((tokens.v[7] * tokens.v[7]).mean())
    assert np.abs(y - right).max() < 1e-5


@pytest.mark.parametrize("is_exponential", [False, True])
def test_gates_beyond_all_measure_stay_finite(is_exponential: bool) -> None:
    tokens = some_tokens(2000, 4, 16)
    tokens.input_gate[...] = np.float32([-1e4, 1e4, -1e4, 1e4])
    tokens.forget_gate[...] = np.float32([-1e4, -1e4, 1e4, 1e4])
    weights = replace(some_weights(4, 16), exponential_gating=is_exponential)
    outputs = done(tokens, weights, empty(4, 16))
    assert all(np.isfinite(array).all() for array in outputs)


def test_a_query_of_zeros_gives_zeros() -> None:
    tokens = some_tokens(3, 2, 16)
    tokens.q[...] = 0
    tokens.input_gate[...] = 1e4
    y = done(tokens, some_weights(2, 16), empty(2, 16))[0]
    assert not y.any()


def test_heads_know_nothing_of_each_other() -> None:
    tokens, weights = some_tokens(4, 3, 16), some_weights(3, 16)
    tokens.q[1:] = 1
    right = done(tokens, weights, empty(3, 16))[0]
    tokens.v[1, 20] = -np.nan
    found = done(tokens, weights, empty(3, 16))[0]
    others = np.r_[0:16, 32:48]
    assert not difference((found[:, others],), (right[:, others],))
    assert np.isfinite(found[0]).all()
    assert (found[1:, 16:32].view(np.uint32) == 0x7FC00000).all(), "the norm spreads it over its head"


def test_arrays_that_do_not_fit_are_refused() -> None:
    tokens, weights, state = some_tokens(2, 3, 16), some_weights(3, 16), empty(3, 16)
    with pytest.raises(UsageError, match=r"a multiple of 16 up to 256, got 8"):
        mlstm_call(tokens, weights, empty(3, 8))
    with pytest.raises(UsageError, match="the forget gates must be float32"):
        mlstm_call(replace(tokens, forget_gate=tokens.forget_gate[:, :2]), weights, state)
    with pytest.raises(UsageError, match=r"the gains must be float32 \(48,\)"):
        mlstm_call(tokens, replace(weights, gain=weights.gain[:16]), state)
    with pytest.raises(UsageError, match=r"the normaliser must be float32 \(3, 16\)"):
        mlstm_call(tokens, weights, replace(state, normaliser=state.normaliser[:2]))
    with pytest.raises(UsageError, match=r"the scale must be float32 \(3,\)"):
        mlstm_call(tokens, weights, replace(state, log_scale=state.log_scale[:2]))
    with pytest.raises(UsageError, match="epsilon must be above 0 and finite"):
        mlstm_call(tokens, replace(weights, eps=np.float32(np.nan)), state)
