"""The delta rule's steps: what they remember, any size and cut, what is not finite, what is refused."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.delta import kernels, reference
from quant.kernels.delta.calls import delta_call
from quant.kernels.delta.problems import delta_problem, preactivations, vectors
from quant.kernels.delta.reference import DeltaTokens, DeltaWeights, Rule, decay_rates, mean_decay
from quant.kernels.operation import Arrays, Case, Kernel, difference, expected, solve
from quant.kernels.table import OPERATIONS

Floats = NDArray[np.float32]
KERNELS: dict[Rule, Kernel] = {"delta": kernels.gated_delta, "exact_flow": kernels.exact_flow}
NAMES: dict[Rule, str] = {"delta": "gated_delta", "exact_flow": "exact_flow"}
RULES: tuple[Rule, ...] = get_args(Rule)


def some_tokens(num_tokens: int, num_heads: int, size: int, *, seed: int = 0) -> DeltaTokens:
    rng = np.random.default_rng(seed)
    wide, narrow = (num_tokens, num_heads * size), (num_tokens, num_heads)
    return DeltaTokens(
        q=vectors(*wide, rng),
        k=vectors(*wide, rng),
        v=vectors(*wide, rng),
        alpha=preactivations(*narrow, rng),
        beta=preactivations(*narrow, rng),
        gate=vectors(*wide, rng),
    )


def some_weights(num_heads: int, size: int) -> DeltaWeights:
    return DeltaWeights(
        rates=decay_rates(np.linspace(-3, 2, num_heads, dtype=np.float32)),
        dt_bias=np.linspace(-4, 0, num_heads, dtype=np.float32),
        gain=np.linspace(0.5, 2, size, dtype=np.float32),
        eps=np.float32(1e-6),
    )


def part_of(tokens: DeltaTokens, part: slice) -> DeltaTokens:
    assert tokens.gate is not None
    return DeltaTokens(
        q=tokens.q[part],
        k=tokens.k[part],
        v=tokens.v[part],
        alpha=tokens.alpha[part],
        beta=tokens.beta[part],
        gate=tokens.gate[part],
    )


def done(tokens: DeltaTokens, weights: DeltaWeights, memory: Floats, *, rule: Rule) -> Arrays:
    call = delta_call(tokens, weights, memory.copy())
    call.outputs[0].view(np.uint8)[...] = 0xFF
    call.run(KERNELS[rule], 0, call.units)
    return call.outputs


def test_every_rule_has_its_kernel() -> None:
    assert tuple(KERNELS) == tuple(NAMES) == RULES


@pytest.mark.parametrize("rule", RULES)
def test_a_key_gives_back_what_was_written_last(rule: Rule) -> None:
    """Gates wide open: α = 1, and so much strength behind a write that nothing else is left along the key."""
    size, rng = 32, np.random.default_rng(3)
    k = rng.standard_normal(size).astype(np.float32)
    if rule == "exact_flow":
        k *= np.float32(10 / np.sqrt((k * k).sum()))
    old, new = rng.standard_normal((2, size), dtype=np.float32)
    tokens = DeltaTokens(
        q=np.stack([k, k]),
        k=np.stack([k, k]),
        v=np.stack([old, new]),
        alpha=np.full((2, 1), -100, dtype=np.float32),
        beta=np.full((2, 1), 100, dtype=np.float32),
    )
    weights = replace(some_weights(1, size), gain=np.ones(size, dtype=np.float32), eps=np.float32(1e-20))
    y, memory = done(tokens, weights, rng.standard_normal((1, size, size), dtype=np.float32), rule=rule)
    for found, written in zip(y, (old, new), strict=True):
        right = written / np.sqrt((written * written).mean())
        assert np.abs(found - right).max() < 1e-5
    length = np.sqrt((k * k).sum()) if rule == "delta" else 1
    assert np.abs((k / length) @ memory[0] - new).max() < 1e-5 * np.abs(new).max()


def test_closed_gates_keep_or_forget() -> None:
    memory = np.random.default_rng(1).standard_normal((2, 16, 16), dtype=np.float32)
    tokens = some_tokens(1, 2, 16)
    shut = replace(tokens, beta=np.full((1, 2), -1000, dtype=np.float32))
    for rule in RULES:
        keep = replace(shut, alpha=np.full((1, 2), -1000, dtype=np.float32))
        assert not difference(done(keep, some_weights(2, 16), memory, rule=rule)[1:], (memory,))
    forget = replace(shut, alpha=np.full((1, 2), 1e6, dtype=np.float32))
    assert not done(forget, some_weights(2, 16), memory, rule="delta")[1].any()
    # The flow fades for one unit of time, by e^{−1} at most.
    (faded,) = done(forget, some_weights(2, 16), memory, rule="exact_flow")[1:]
    assert np.abs(faded - memory * np.exp(-1.0)).max() < 1e-6


@given(
    st.sampled_from(RULES),
    st.integers(1, 19),
    st.sampled_from([16, 32, 48]),
    st.integers(1, 18),
    st.integers(0, 2**32),
)
@settings(max_examples=30)
def test_any_size_equals_the_reference(rule: Rule, heads: int, size: int, tokens: int, seed: int) -> None:
    operation = OPERATIONS[NAMES[rule]]
    problem = delta_problem(Case(rows=heads, inputs=size, tokens=tokens), np.random.default_rng(seed))
    right = expected(operation, problem)
    assert not difference(solve(problem, KERNELS[rule], parts=2), right)
    assert all(np.isfinite(array).all() for array in right)


@given(st.sampled_from(RULES), st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=20)
def test_a_cut_changes_nothing(rule: Rule, lengths: list[int]) -> None:
    tokens, weights = some_tokens(sum(lengths), 3, 32), some_weights(3, 32)
    first_memory = np.random.default_rng(2).standard_normal((3, 32, 32), dtype=np.float32)
    whole, last_memory = done(tokens, weights, first_memory, rule=rule)
    parts: list[Floats] = []
    memory, start = first_memory, 0
    for length in lengths:
        y, memory = done(part_of(tokens, slice(start, start + length)), weights, memory, rule=rule)
        parts.append(y)
        start += length
    assert not difference((np.concatenate(parts), memory), (whole, last_memory))


@pytest.mark.parametrize("rule", RULES)
def test_heads_know_nothing_of_each_other(rule: Rule) -> None:
    tokens, weights = some_tokens(4, 3, 16), some_weights(3, 16)
    memory = np.random.default_rng(2).standard_normal((3, 16, 16), dtype=np.float32)
    right, _ = done(tokens, weights, memory, rule=rule)
    tokens.v[1, 20] = -np.nan
    found, spoilt = done(tokens, weights, memory, rule=rule)
    others = np.r_[0:16, 32:48]
    assert not difference((found[:, others],), (right[:, others],))
    assert np.isfinite(found[0]).all()
    assert (found[1:, 16:32].view(np.uint32) == 0x7FC00000).all(), "the norm spreads it over its head"
    assert np.isnan(spoilt[1, :, 4]).all()
    assert np.isfinite(np.delete(spoilt[1], 4, axis=1)).all()


@pytest.mark.parametrize("rule", RULES)
def test_what_is_beyond_all_measure_stays_finite(rule: Rule) -> None:
    """Steps that never end: the largest gates, keys that are all alike, for a long time."""
    size, num_tokens = 16, 2000
    rng = np.random.default_rng(5)
    x = np.tile(rng.standard_normal(2 * size).astype(np.float32), (num_tokens, 1))
    tokens = DeltaTokens(
        q=x,
        k=x * np.float32(50),
        v=rng.standard_normal(x.shape).astype(np.float32),
        alpha=np.tile(np.float32([-1e4, 1e4]), (num_tokens, 1)),
        beta=np.full((num_tokens, 2), 1e4, dtype=np.float32),
    )
    y, memory = done(tokens, some_weights(2, size), np.zeros((2, size, size), dtype=np.float32), rule=rule)
    assert np.isfinite(y).all()
    assert np.abs(memory).max() <= 2 * np.abs(tokens.k).max() * np.abs(tokens.v).max()


def test_the_mean_of_a_decay_is_near_the_truth() -> None:
    x = np.concatenate([np.linspace(0, 3, 10001), np.logspace(-40, 38, 10000)]).astype(np.float32)
    wide = x.astype(np.float64)
    right = np.where(wide > 0, -np.expm1(-wide) / np.where(wide > 0, wide, 1), 1)
    assert (np.abs(mean_decay(x) - right) <= 2e-7 * right).all()
    assert mean_decay(np.float32([0, np.inf])).tolist() == [1, 0]


def test_no_rate_is_made_by_a_library() -> None:
    a_log = np.linspace(-9, 3, 100, dtype=np.float32)
    assert np.abs(decay_rates(a_log) - np.exp(a_log.astype(np.float64))).max() < 1e-6 * np.exp(3)


def test_arrays_that_do_not_fit_are_refused() -> None:
    tokens, weights = some_tokens(2, 3, 16), some_weights(3, 16)
    memory = np.zeros((3, 16, 16), dtype=np.float32)
    with pytest.raises(UsageError, match=r"a multiple of 16 up to 256, got 24"):
        delta_call(tokens, weights, np.zeros((3, 24, 24), dtype=np.float32))
    with pytest.raises(UsageError, match=r"a multiple of 16 up to 256, got 272"):
        delta_call(tokens, weights, np.zeros((1, 272, 272), dtype=np.float32))
    with pytest.raises(UsageError, match=r"the memory must be float32 \(3, 16, 16\)"):
        delta_call(tokens, weights, memory.astype(np.float64))
    with pytest.raises(UsageError, match="the queries must be float32"):
        delta_call(replace(tokens, q=tokens.q[:, :-1]), weights, memory)
    with pytest.raises(UsageError, match="the write gates must be float32"):
        delta_call(replace(tokens, beta=tokens.beta[:1]), weights, memory)
    with pytest.raises(UsageError, match="the gains must be float32"):
        delta_call(tokens, replace(weights, gain=weights.gain[:8]), memory)
    with pytest.raises(UsageError, match="epsilon must be above 0 and finite"):
        delta_call(tokens, replace(weights, eps=np.float32(0)), memory)


def test_a_reference_leaves_its_inputs_alone() -> None:
    tokens, weights = some_tokens(3, 2, 16), some_weights(2, 16)
    memory = np.ones((2, 16, 16), dtype=np.float32)
    before = tokens.k.copy()
    reference.gated_delta(tokens, weights, memory)
    assert (memory == 1).all()
    assert not difference((np.ascontiguousarray(tokens.k),), (before,))
