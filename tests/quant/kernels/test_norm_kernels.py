"""RMSNorm and the block quantiser: the truth, heads, rows that lie apart, what is not finite, borders."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.activations import quantize_activations
from quant.kernels.arguments import Y_STRIDE, Y
from quant.kernels.elementary.calls import VectorCall
from quant.kernels.norm import kernels, reference
from quant.kernels.norm.calls import quantize_call, rms_norm_call, rms_norm_quantize_call
from quant.kernels.operation import Arrays, Kernel, difference

EPS = np.float32(1e-6)


def some_rows(tokens: int, inputs: int, *, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((tokens, inputs), dtype=np.float32)


def done(call: VectorCall, kernel: Kernel) -> Arrays:
    for output in call.outputs:
        output.view(np.uint8)[...] = 0xFF
    call.run(kernel, 0, call.units)
    return call.outputs


def test_the_norm_is_near_the_truth() -> None:
    x, gain = some_rows(5, 2560), some_rows(1, 2560, seed=1)[0]
    wide = x.astype(np.float64)
    right = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-6) * gain
    assert np.abs(reference.rms_norm(x, gain, EPS) - right).max() < 1e-6 * np.abs(right).max()


@pytest.mark.parametrize(("lane", "counted"), [(0, 0), (1, 1000)])
def test_the_sum_runs_in_sixteen_lanes(lane: int, counted: int) -> None:
    """A thousand ones are lost one by one behind a 2^24 in their lane, and count in a lane of their own."""
    x = np.zeros((1, 16 * 1001), dtype=np.float32)
    x[0, 16 + lane :: 16] = 1
    x[0, 0] = 4096
    gain, eps = np.ones(x.size, dtype=np.float32), np.float32(1e-9)
    r = np.float32(1) / np.sqrt(np.float32(2**24 + counted) / np.float32(x.size) + eps)
    (found,) = done(rms_norm_call(x, gain, eps=eps), kernels.rms_norm)
    assert found[0, 16 + lane] == r == reference.rms_norm(x, gain, eps)[0, 16 + lane]


@given(st.integers(1, 5), st.integers(1, 300), st.integers(0, 2**32))
@settings(max_examples=40)
def test_any_size_and_any_bits_equal_the_reference(tokens: int, inputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    exponents = rng.integers(-140, 100, (tokens, 1))
    x = np.ldexp(some_rows(tokens, inputs, seed=seed), exponents)
    if seed % 3 == 0:
        x = rng.integers(0, 2**32, x.shape, dtype=np.uint64).astype(np.uint32).view(np.float32)
    gain = some_rows(1, inputs, seed=seed + 1)[0]
    assert not difference(done(quantize_call(x), kernels.quantize), reference.quantize_blocks(x))
    found = done(rms_norm_quantize_call(x, gain, eps=EPS), kernels.rms_norm_quantize)
    assert not difference(found, reference.rms_norm_quantize(x, gain, EPS))
    found = done(rms_norm_call(x, gain, eps=EPS), kernels.rms_norm)
    assert not difference(found, (reference.rms_norm(x, gain, EPS),))


def test_the_quantiser_is_the_one_of_activations() -> None:
    x = some_rows(7, 200) * np.float32(3)
    acts = quantize_activations(x)
    right = (acts.codes, acts.scales, acts.neg_sums)
    assert not difference(reference.quantize_blocks(x), right)
    assert not difference(done(quantize_call(x), kernels.quantize), right)


@pytest.mark.parametrize("own_gains", [False, True])
def test_heads_are_rows_of_their_own(own_gains: bool) -> None:
    x = some_rows(3, 4 * 20)
    gain = some_rows(1, 80 if own_gains else 20, seed=1)[0]
    together = done(rms_norm_call(x, gain, eps=EPS, num_heads=4), kernels.rms_norm)[0]
    for head in range(4):
        part = np.ascontiguousarray(x[:, head * 20 : head * 20 + 20])
        own = np.ascontiguousarray(gain.reshape(-1, 20)[head if own_gains else 0])
        (alone,) = done(rms_norm_call(part, own, eps=EPS), kernels.rms_norm)
        assert not difference((np.ascontiguousarray(together[:, head * 20 : head * 20 + 20]),), (alone,))


def test_rows_may_lie_apart_and_nothing_is_written_between() -> None:
    x = some_rows(4, 50)[:, :37]
    gain = np.ones(37, dtype=np.float32)
    call = rms_norm_call(x, gain, eps=EPS)
    wide = np.full((4, 64), 7, dtype=np.float32)
    call.table[Y], call.table[Y_STRIDE] = wide.ctypes.data, wide.strides[0]
    call.run(kernels.rms_norm, 0, call.units)
    assert not difference((np.ascontiguousarray(wide[:, :37]),), (reference.rms_norm(x, gain, EPS),))
    assert (wide[:, 37:] == 7).all()


def test_what_is_not_finite_is_told_by_the_scale() -> None:
    x = np.ones((1, 192), dtype=np.float32)
    x[0, 3], x[0, 70], x[0, 71] = -np.inf, np.nan, np.inf
    codes, scales, neg_sums = done(quantize_call(x), kernels.quantize)
    assert scales.view(np.uint32)[0, :2].tolist() == [0x7F800000, 0x7FC00000]
    assert scales[0, 2] == np.float32(1) / np.float32(127)
    assert not codes[0, :128].any()
    assert (codes[0, 128:] == 127).all()
    assert neg_sums.tolist() == [[0, 0, -64 * 127]]


def test_a_row_with_a_nan_is_nan_and_a_sum_that_overflows_gives_zeros() -> None:
    x = some_rows(3, 40)
    x[0, 5], x[1, 6], x[2] = -np.nan, np.inf, 1e30
    (y,) = done(rms_norm_call(x, np.ones(40, dtype=np.float32), eps=EPS), kernels.rms_norm)
    assert (y[0].view(np.uint32) == 0x7FC00000).all()
    assert np.flatnonzero(np.isnan(y[1])).tolist() == [6]
    assert not np.delete(y[1], 6).any()
    assert not y[2].any()


def test_nothing_beyond_the_ends_of_arrays_is_touched() -> None:
    command = [sys.executable, "-m", "tests.quant.kernels.guarded"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert output == "done\n"


def test_arrays_that_do_not_fit_are_refused() -> None:
    x, gain = some_rows(2, 48), np.ones(48, dtype=np.float32)
    with pytest.raises(UsageError, match="the tokens must be float32"):
        quantize_call(x.astype(np.float64))
    with pytest.raises(UsageError, match="elements of a row not side by side"):
        quantize_call(x[:, ::2])
    with pytest.raises(UsageError, match="at least one entry"):
        quantize_call(x[:0])
    with pytest.raises(UsageError, match=r"the gains must be float32 \(48,\)"):
        rms_norm_quantize_call(x, gain[:-1], eps=EPS)
    with pytest.raises(UsageError, match="48 inputs cannot be parted into 5 heads"):
        rms_norm_call(x, gain, eps=EPS, num_heads=5)
    for eps in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="epsilon must be above 0 and finite"):
            rms_norm_call(x, gain, eps=np.float32(eps))
