"""The Titans step: cuts, the border, the window's codes, what is not finite, and where memory ends."""

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UsageError
from quant import selfcheck
from quant.activations import quantize_activations
from quant.kernels.operation import Arrays, difference
from quant.kernels.table import OPERATIONS
from quant.kernels.titans import kernels, reference
from quant.kernels.titans.calls import titans_call
from quant.kernels.titans.problems import random_parameters, random_tokens
from quant.kernels.titans.rotation import rotation_steps
from quant.kernels.titans.shapes import TitansShape, TitansState, begin_text, empty_state, state_arrays

SHAPE = TitansShape(num_heads=3, head_dim=24, num_slots=5, window=20, memory_chunk=8)
PARAMETERS = random_parameters(SHAPE, np.random.default_rng(0))


def fresh(shape: TitansShape = SHAPE) -> TitansState:
    state = empty_state(shape)
    begin_text(state, initial_memory=PARAMETERS.initial_memory)
    return state


def tokens_of(num_tokens: int, *, position: int = 0, seed: int = 1) -> reference.TitansTokens:
    return random_tokens(SHAPE, num_tokens=num_tokens, position=position, rng=np.random.default_rng(seed))


def part_of(tokens: reference.TitansTokens, first: int, last: int) -> reference.TitansTokens:
    return reference.TitansTokens(*(part[first:last] for part in tokens))


def run(
    tokens: reference.TitansTokens, state: TitansState, *, position: int = 0, cuts: Sequence[int] = ()
) -> Arrays:
    """Outputs of the kernel, with the text cut into calls; writes the state."""
    num_tokens = len(tokens.q)
    borders = sorted({0, num_tokens, *(cut for cut in cuts if cut < num_tokens)})
    found: list[Arrays] = []
    for first, last in pairwise(borders):
        at = np.array([position + first], dtype=np.int64)
        call = titans_call(SHAPE, PARAMETERS, part_of(tokens, first, last), state, position=at)
        call.run(kernels.titans, 0, call.units)
        found.append(call.outputs)
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


@given(st.lists(st.integers(1, 59), max_size=8), st.integers(0, 2**32))
@settings(max_examples=25)
def test_cutting_a_text_into_calls_changes_nothing(cuts: list[int], seed: int) -> None:
    tokens = tokens_of(60, seed=seed)
    whole, cut = fresh(), fresh()
    assert not difference(run(tokens, cut, cuts=cuts), run(tokens, whole))
    assert not difference(cut, whole)


def test_heads_do_not_see_each_other() -> None:
    tokens, state, other = tokens_of(30), fresh(), fresh()
    right = run(tokens, state)
    changed = reference.TitansTokens(*(part.copy() for part in tokens))
    for part, width in zip(changed[:6], (24, 24, 24, 1, 1, 1), strict=True):
        part[:, width : 2 * width] += np.float32(1)
    found = run(changed, other)
    for one, two, width in ((found[0], right[0], 24), (found[1], right[1], 1)):
        same = (one == two).all(axis=0)
        assert same[:width].all()
        assert same[2 * width :].all()
        assert not same[width : 2 * width].all()


def test_nothing_is_copied_at_a_border() -> None:
    """In each chunk one copy of the memory rests; it is the one that ran in the chunk before."""
    tokens, state = tokens_of(40), fresh()
    for t in range(40):
        before = state.memory.copy()
        run(part_of(tokens, t, t + 1), state, position=t)
        changed = [(state.memory[:, copy] != before[:, copy]).any() for copy in range(2)]
        reads = t // SHAPE.memory_chunk % 2
        assert not changed[reads]
        assert changed[1 - reads] or not tokens.k[t].any()


def test_the_window_holds_the_codes_of_activations() -> None:
    tokens, state = tokens_of(50), fresh()
    run(tokens, state)
    for t in range(30, 50):
        v = tokens.v[t].reshape(3, 24)
        acts = quantize_activations(np.ascontiguousarray(v))
        assert np.array_equal(state.values[:, t % 20], acts.codes)
        assert np.array_equal(state.value_scales[:, t % 20], acts.scales[:, 0])


def test_a_long_text_stays_finite_and_equal() -> None:
    tokens, state = tokens_of(700), fresh()
    y, surprise = run(tokens, state)
    right = reference.titans(SHAPE, PARAMETERS, tokens, fresh(), 0)
    assert not difference((y, surprise, *state), right)
    assert np.isfinite(y).all()
    assert np.isfinite(surprise).all()
    # Nothing builds up: momentum and forgetting hold the memory in bounds.
    assert np.abs(state.memory).max() < 4 * np.abs(PARAMETERS.initial_memory).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_what_is_not_finite_shows_in_its_head_alone(part: str, value: float) -> None:
    tokens, state = tokens_of(4), fresh()
    right, _ = run(tokens, fresh())
    getattr(tokens, part)[1, 30] = value
    found = run(tokens, state)
    assert not difference(found, reference.titans(SHAPE, PARAMETERS, tokens, fresh(), 0)[:2])
    y = found[0].reshape(4, 3, 24)
    assert np.isnan(y[1:, 1]).all()
    assert np.array_equal(y[:, [0, 2]], right.reshape(4, 3, 24)[:, [0, 2]])
    assert np.isfinite(y[0]).all()


def test_the_state_is_described_as_it_is() -> None:
    state = empty_state(SHAPE)
    for array, wanted, name in zip(state, state_arrays(SHAPE), TitansState._fields, strict=True):
        assert (wanted.name, wanted.dtype, wanted.shape) == (name, array.dtype.name, array.shape)


def test_padding_stays_zero() -> None:
    state = fresh()
    run(tokens_of(60), state)
    for array in (state.memory, state.momentum, state.answers, state.keys, state.values):
        assert array[..., :24].any()
        assert not array[..., 24:].any()


@pytest.mark.parametrize(("theta", "head_dim"), [(1e4, 64), (500.0, 24), (1.0, 8), (5e6, 256)])
def test_steps_are_angles_in_turns(theta: float, head_dim: int) -> None:
    steps = rotation_steps(head_dim=head_dim, theta=theta)
    wanted = theta ** -(np.arange(0, head_dim, 2) / head_dim) * (2.0**64 / (2 * np.pi))
    assert steps.shape == (head_dim // 2,)
    # Half a unit of rounding, and what float64 knows of the angle itself.
    assert (np.abs(steps - wanted) <= 0.5 + 2.0**-49 * wanted).all()


def test_steps_are_rounded_once() -> None:
    # 2^64 / 2π and a hundredth of it, to the last unit.
    assert rotation_steps(head_dim=4, theta=1e4).tolist() == [2935890503282001226, 29358905032820012]


def test_the_self_check_goes_through_every_branch() -> None:
    operation = OPERATIONS["titans"]
    problem = operation.problem(operation.golden, np.random.default_rng(20))
    shape, _, tokens, _, position = problem.inputs
    last = position + len(tokens.q)
    assert shape.head_dim > 64, "more than one block"
    assert shape.head_dim % 64
    assert shape.window > 16, "sums of sixteen keys and of one"
    assert shape.window % 16
    assert position < shape.window < last, "the window fills and begins anew"
    assert position // shape.memory_chunk != last // shape.memory_chunk, "a chunk ends"
    assert shape.num_slots % 16
    assert selfcheck.check("titans", "plain") == ""


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("shape", {"head_dim": 9}, "an even number of channels"),
    ("shape", {"head_dim": 258}, "2 … 256; got 258"),
    ("shape", {"window": 0}, "window must be at least 1, got 0"),
    ("shape", {"num_slots": -1}, "num_slots must be at least 0, got -1"),
]


@pytest.mark.parametrize(("what", "change", "message"), WRONG)
def test_sizes_that_cannot_work_are_refused(what: str, change: dict[str, Any], message: str) -> None:
    sizes = {"num_heads": 3, "head_dim": 24, "num_slots": 5, "window": 20, "memory_chunk": 8}
    with pytest.raises(UsageError, match=message):
        TitansShape(**(sizes | change))


def test_arrays_that_do_not_fit_are_refused() -> None:
    tokens, state, position = tokens_of(2), fresh(), np.zeros(1, dtype=np.int64)

    def call(**changes: Any) -> None:
        given = {"tokens": tokens, "state": state, "position": position} | changes
        titans_call(SHAPE, PARAMETERS, given["tokens"], given["state"], position=given["position"])

    call()
    with pytest.raises(UsageError, match="keys must be int8"):
        call(state=state._replace(keys=state.keys.astype(np.int16)))
    with pytest.raises(UsageError, match=r"momentum must be float32 \(3, 2, 24, 64\)"):
        call(state=state._replace(momentum=state.momentum[:2]))
    with pytest.raises(UsageError, match="the position must be int64"):
        call(position=np.zeros(1, dtype=np.int32))
    with pytest.raises(UsageError, match="equally far apart"):
        call(tokens=tokens._replace(k=np.ascontiguousarray(tokens.k)))
    with pytest.raises(UsageError, match="what tokens bring must be float32"):
        call(tokens=tokens._replace(eta=tokens.eta[:, :2]))


def test_nothing_beyond_the_ends_of_arrays_is_touched() -> None:
    command = [sys.executable, "-m", "tests.quant.kernels.guarded_titans"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert output == "done\n"
