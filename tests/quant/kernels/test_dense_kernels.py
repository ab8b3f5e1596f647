"""Dense products: the truth, the order of sums, any size, biases, rows that lie apart, what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.dense import kernels
from quant.kernels.dense.calls import dense_call
from quant.kernels.dense.reference import dense
from quant.kernels.operation import difference

Floats = NDArray[np.float32]


def some(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def done(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    call = dense_call(x, weight, bias)
    call.outputs[0].view(np.uint8)[...] = 0xFF
    call.run(kernels.dense, 0, call.units)
    return call.outputs[0]


def test_it_is_near_the_truth() -> None:
    x, weight, bias = some(6, 2560), some(80, 2560, seed=1), some(80, seed=2)
    wide, rows = x.astype(np.float64), weight.astype(np.float64)
    right = wide @ rows.T + bias
    # A lane adds 160 products, then four sums and the bias; each rounds by half a unit at most.
    bound = 2.0**-24 * (160 + 1 + 4 + 1) * (np.abs(wide) @ np.abs(rows).T + np.abs(bias))
    assert (np.abs(done(x, weight, bias) - right) <= bound).all()


@pytest.mark.parametrize(("lane", "counted"), [(0, 0), (1, 1000)])
def test_the_sum_runs_in_sixteen_lanes(lane: int, counted: int) -> None:
    """A thousand ones are lost one by one behind a 2^24 in their lane, and count in a lane of their own."""
    x = np.zeros((1, 16 * 1001), dtype=np.float32)
    x[0, 16 + lane :: 16] = 1
    x[0, 0] = 2**24
    for rows in (1, 4):
        assert (done(x, np.ones((rows, x.size), dtype=np.float32)) == 2**24 + counted).all()


@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 6), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=40)
def test_any_size_and_any_bits_equal_the_reference(
    rows: int, inputs: int, tokens: int, with_bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weight = some(tokens, inputs, seed=seed), some(rows, inputs, seed=seed + 1)
    if seed % 3 == 0:
        x = rng.integers(0, 2**32, x.shape, dtype=np.uint64).astype(np.uint32).view(np.float32)
    bias = some(rows, seed=seed + 2) if with_bias else None
    assert not difference((done(x, weight, bias),), (dense(x, weight, bias),))


def test_tokens_together_equal_tokens_alone() -> None:
    x, weight = some(7, 100), some(6, 100, seed=1)
    together = done(x, weight)
    for token in range(7):
        assert not difference((together[token : token + 1],), (done(x[token : token + 1], weight),))


def test_a_nan_has_our_bits_and_stays_in_its_token() -> None:
    x = some(3, 40)
    x[1, 5] = -np.nan
    y = done(x, some(5, 40, seed=1))
    assert (y[1].view(np.uint32) == 0x7FC00000).all()
    assert np.isfinite(y[[0, 2]]).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    x, weight = some(2, 48), some(3, 48)
    with pytest.raises(UsageError, match=r"the matrix must be float32 \(3, 48\)"):
        dense_call(x, weight.astype(np.float64))
    with pytest.raises(UsageError, match=r"the matrix must be float32 \(3, 48\)"):
        dense_call(x, weight[:, :-1])
    with pytest.raises(UsageError, match="elements of a row not side by side"):
        dense_call(x[:, ::2], weight[:, :24])
    with pytest.raises(UsageError, match=r"the biases must be float32 \(3,\)"):
        dense_call(x, weight, some(4))
    with pytest.raises(UsageError, match="at least one entry"):
        dense_call(x[:0], weight)
