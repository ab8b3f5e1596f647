"""The short convolution: PyTorch's bits, any size, any cut, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chimera.mixers.convolution import causal_convolution
from configs.errors import UsageError
from quant.kernels.convolution import kernels
from quant.kernels.convolution.calls import convolution_call
from quant.kernels.convolution.reference import short_convolution
from quant.kernels.elementary.reference import silu
from quant.kernels.operation import Arrays, difference

Floats = NDArray[np.float32]


def some(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def done(x: Floats, weight: Floats, tail: Floats) -> Arrays:
    call = convolution_call(x, weight, tail.copy())
    call.outputs[0].view(np.uint8)[...] = 0xFF
    call.run(kernels.short_convolution, 0, call.units)
    return call.outputs


@pytest.mark.parametrize("num_tokens", [1, 2, 9])
def test_the_layers_own_convolution_gives_the_same_bits(num_tokens: int) -> None:
    x, weight, tail = some(num_tokens, 50), some(4, 50, seed=1), some(3, 50, seed=2)
    y, new_tail = causal_convolution(
        torch.from_numpy(x).unsqueeze(0),
        weight_DY=torch.from_numpy(weight.T.copy()),
        tail=torch.from_numpy(tail).unsqueeze(0),
    )
    right = silu(y[0].numpy()), np.ascontiguousarray(new_tail[0].numpy())
    assert not difference(done(x, weight, tail), right)


@given(st.integers(2, 16), st.integers(1, 70), st.integers(1, 20), st.integers(0, 2**32))
@settings(max_examples=40)
def test_any_size_equals_the_reference(taps: int, channels: int, tokens: int, seed: int) -> None:
    x, weight, tail = (
        some(tokens, channels, seed=seed),
        some(taps, channels, seed=1),
        some(taps - 1, channels),
    )
    x = np.ldexp(x, np.random.default_rng(seed).integers(-140, 100, (tokens, 1)))
    assert not difference(done(x, weight, tail), short_convolution(x, weight, tail))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
@settings(max_examples=20)
def test_a_cut_changes_nothing(lengths: list[int]) -> None:
    x, weight, first_tail = some(sum(lengths), 40), some(4, 40, seed=1), some(3, 40, seed=2)
    whole, last_tail = done(x, weight, first_tail)
    parts: list[Floats] = []
    tail, start = first_tail, 0
    for length in lengths:
        y, tail = done(x[start : start + length], weight, tail)
        parts.append(y)
        start += length
    assert not difference((np.concatenate(parts), tail), (whole, last_tail))


def test_a_nan_stays_in_its_channel_and_leaves_it_again() -> None:
    x = some(6, 20)
    x[1, 7] = -np.nan
    y, _ = done(x, some(4, 20, seed=1), some(3, 20, seed=2))
    assert np.argwhere(np.isnan(y)).tolist() == [[token, 7] for token in (1, 2, 3, 4)]
    assert (y[1:5, 7].view(np.uint32) == 0x7FC00000).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    x, weight, tail = some(2, 48), some(4, 48), some(3, 48)
    with pytest.raises(UsageError, match=r"the taps must be float32 \(4, 48\)"):
        convolution_call(x, weight[:, :-1], tail)
    with pytest.raises(UsageError, match=r"the tail must be float32 \(3, 48\)"):
        convolution_call(x, weight, tail[:2])
    for taps in (1, 17):
        with pytest.raises(UsageError, match=f"2 … 16 taps, got {taps}"):
            convolution_call(x, some(taps, 48), some(taps, 48)[1:])
