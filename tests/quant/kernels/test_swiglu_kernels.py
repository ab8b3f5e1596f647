"""SwiGLU: against the truth, in place of an input, in parts, and what is not finite."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.arguments import Y
from quant.kernels.elementary.calls import VectorCall
from quant.kernels.operation import Arrays, Kernel, difference
from quant.kernels.swiglu import kernels, reference
from quant.kernels.swiglu.calls import swiglu_call, swiglu_norm_quantize_call, swiglu_quantize_call

EPS = np.float32(1e-6)


def pair(tokens: int, inputs: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    gate, up = np.random.default_rng(seed).standard_normal((2, tokens, inputs), dtype=np.float32)
    return gate * np.float32(5), up


def done(call: VectorCall, kernel: Kernel, *, parts: int = 1) -> Arrays:
    for output in call.outputs:
        output.view(np.uint8)[...] = 0xFF
    for first, last in pairwise(call.units * part // parts for part in range(parts + 1)):
        call.run(kernel, first, last)
    return call.outputs


def test_it_is_near_the_truth() -> None:
    gate, up = pair(3, 500)
    wide = gate.astype(np.float64)
    right = wide / (1 + np.exp(-wide)) * up
    found = reference.swiglu(gate, up)
    assert (np.abs(found - right) <= 5 * np.spacing(np.abs(right).astype(np.float32))).all()


@given(st.integers(1, 4), st.integers(1, 200), st.integers(0, 2**32))
@settings(max_examples=40)
def test_any_size_and_any_bits_equal_the_reference(tokens: int, inputs: int, seed: int) -> None:
    gate, up = pair(tokens, inputs, seed=seed)
    if seed % 3 == 0:
        any_bits = np.random.default_rng(seed).integers(0, 2**32, gate.shape, dtype=np.uint64)
        gate = any_bits.astype(np.uint32).view(np.float32)
    gain = pair(1, inputs, seed=seed + 1)[1][0]
    parts = 1 + seed % 4
    found = done(swiglu_call(gate, up), kernels.swiglu, parts=parts)
    assert not difference(found, (reference.swiglu(gate, up),))
    found = done(swiglu_quantize_call(gate, up), kernels.swiglu_quantize, parts=parts)
    assert not difference(found, reference.swiglu_quantize(gate, up))
    call = swiglu_norm_quantize_call(gate, up, gain, eps=EPS)
    found = done(call, kernels.swiglu_norm_quantize, parts=parts)
    assert not difference(found, reference.swiglu_norm_quantize(gate, up, gain, EPS))


@pytest.mark.parametrize("number", [0, 1])
def test_the_result_may_take_the_place_of_an_input(number: int) -> None:
    inputs = pair(2, 150)
    right = reference.swiglu(*inputs)
    call = swiglu_call(*inputs)
    call.table[Y] = inputs[number].ctypes.data
    call.run(kernels.swiglu, 0, call.units)
    assert not difference((inputs[number],), (right,))


def test_what_is_not_finite() -> None:
    gate = np.array([[np.nan, np.inf, -np.inf, 1, 0, -np.inf, 1e30]], dtype=np.float32)
    up = np.array([[1, 1, 1, np.nan, np.inf, np.inf, 1e30]], dtype=np.float32)
    (y,) = done(swiglu_call(gate, up), kernels.swiglu)
    nan, infinity, minus_zero = 0x7FC00000, 0x7F800000, 0x80000000
    assert y.view(np.uint32)[0].tolist() == [nan, infinity, minus_zero, nan, nan, nan, infinity]


def test_arrays_that_do_not_fit_are_refused() -> None:
    gate, up = pair(2, 30)
    with pytest.raises(UsageError, match=r"the other half must be float32 \(2, 30\)"):
        swiglu_call(gate, up[:, :-1])
    with pytest.raises(UsageError, match="the gate must be float32"):
        swiglu_quantize_call(gate.astype(np.float16), up)
    with pytest.raises(UsageError, match=r"the gains must be float32 \(30,\)"):
        swiglu_norm_quantize_call(gate, up, np.ones(2, dtype=np.float32), eps=EPS)
