"""The ternary product: extremes, cuts, threads, and the machine code that makes it."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quant import jit
from quant.activations import QuantizedActivations, quantize_activations
from quant.cpu import Form
from quant.kernels.calls import ternary_call
from quant.kernels.operation import Kernel, difference
from quant.kernels.table import OPERATIONS
from quant.packing import PackedTernary, pack_ternary
from quant.ternary import TernaryWeights, num_groups, ternary_matmul
from tests.quant.kernels import fast
from tests.quant.kernels.assembly import function_of

FORMS = list(OPERATIONS["ternary_matmul"].forms.items())


def matrix(codes: NDArray[np.int8], *, seed: int = 0) -> tuple[TernaryWeights, PackedTernary]:
    groups = num_groups(codes.shape[1], group_size=128)
    scales = np.random.default_rng(seed).uniform(0.001, 0.1, (codes.shape[0], groups)).astype(np.float16)
    weights = TernaryWeights(codes=codes, scales=scales, group_size=128)
    return weights, pack_ternary(weights)


def some_tokens(count: int, inputs: int, *, seed: int = 0) -> QuantizedActivations:
    return quantize_activations(
        np.random.default_rng(seed).standard_normal((count, inputs), dtype=np.float32)
    )


def one_of(acts: QuantizedActivations, token: int) -> QuantizedActivations:
    part = slice(token, token + 1)
    return QuantizedActivations(
        codes=acts.codes[part],
        scales=acts.scales[part],
        neg_sums=acts.neg_sums[part],
        num_inputs=acts.num_inputs,
    )


@given(st.integers(1, 70), st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=25)
def test_any_size_equals_the_reference(rows: int, inputs: int, tokens: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, (rows, inputs), dtype=np.int8)
    weights, packed = matrix(codes, seed=seed)
    acts = some_tokens(tokens, inputs, seed=seed)
    assert not difference((fast.ternary_matmul(packed, acts),), (ternary_matmul(weights, acts),))


@pytest.mark.parametrize(("form", "kernel"), FORMS)
@pytest.mark.parametrize("weight", [-1, 1])
@pytest.mark.parametrize("activation", [-1.0, 1.0])
def test_the_largest_sums_do_not_overflow(form: Form, kernel: Kernel, weight: int, activation: float) -> None:
    weights, packed = matrix(np.full((32, 192), weight, dtype=np.int8))
    for tokens in (1, 20):
        acts = quantize_activations(np.full((tokens, 192), activation, dtype=np.float32))
        assert abs(int(acts.codes[0, 0])) == 127
        call = ternary_call(packed, acts)
        call.run(kernel, 0, call.units)
        assert not difference((call.y,), (ternary_matmul(weights, acts),)), form


@pytest.mark.parametrize(("form", "kernel"), FORMS)
def test_the_integer_sums_are_exact(form: Form, kernel: Kernel) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(-1, 2, (64, 64), dtype=np.int8)
    weights = TernaryWeights(codes=codes, scales=np.ones((64, 1), dtype=np.float16), group_size=128)
    q = rng.integers(-127, 128, (21, 64), dtype=np.int8)
    acts = QuantizedActivations(
        codes=q,
        scales=np.ones((21, 1), dtype=np.float32),
        neg_sums=-q.sum(axis=1, keepdims=True, dtype=np.int32),
        num_inputs=64,
    )
    call = ternary_call(pack_ternary(weights), acts)
    call.run(kernel, 0, call.units)
    assert np.array_equal(call.y.astype(np.int64), q.astype(np.int64) @ codes.T.astype(np.int64)), form


@pytest.mark.parametrize(("form", "kernel"), FORMS)
def test_tokens_together_equal_tokens_alone(form: Form, kernel: Kernel) -> None:
    _, packed = matrix(np.random.default_rng(2).integers(-1, 2, (96, 448), dtype=np.int8))
    acts = some_tokens(37, 448)
    together = ternary_call(packed, acts)
    together.run(kernel, 0, together.units)
    for token in range(37):
        alone = ternary_call(packed, one_of(acts, token))
        alone.run(kernel, 0, alone.units)
        assert not difference((together.y[token : token + 1],), (alone.y,)), f"{form}, token {token}"


@pytest.mark.parametrize(("form", "kernel"), FORMS)
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_threads_share_the_rows(threads: int, form: Form, kernel: Kernel) -> None:
    weights, packed = matrix(np.random.default_rng(3).integers(-1, 2, (330, 576), dtype=np.int8))
    acts = some_tokens(21, 576)
    call = ternary_call(packed, acts)
    call.y[...] = np.nan
    bounds = [call.units * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: call.run(kernel, bounds[part], bounds[part + 1]), range(threads)))
    assert not difference((call.y[:, :330],), (ternary_matmul(weights, acts),)), form


@pytest.mark.parametrize(("form", "kernel"), FORMS)
def test_what_lies_beside_the_part_is_not_touched(form: Form, kernel: Kernel) -> None:
    _, packed = matrix(np.random.default_rng(4).integers(-1, 2, (160, 64), dtype=np.int8))
    call = ternary_call(packed, some_tokens(23, 64))
    call.y[...] = 7.5
    call.run(kernel, 1, 3)
    assert (call.y[:, :32] == 7.5).all(), form
    assert (call.y[:, 96:] == 7.5).all(), form
    assert (call.y[:, 32:96] != 7.5).all(), form


@pytest.mark.parametrize(("form", "kernel"), FORMS)
def test_nothing_is_fused_and_no_library_is_called(form: Form, kernel: Kernel) -> None:
    text = jit.assembly(function_of(kernel))
    assert not re.findall(r"\bv?fn?m(?:add|sub|la|ls)\w*", text), form
    for function in ("__extendhfsf2", "__gnu_h2f_ieee", "rintf", "roundf", "fmaf"):
        assert function not in text, form
