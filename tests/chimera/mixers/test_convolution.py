"""The causal convolution, against its reference, PyTorch's own, cuts and packed rows."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from chimera.mixers.convolution import CausalConvolution, causal_convolution, causal_convolution_reference
from tests.chimera.mixers.helpers import (
    FLOAT64,
    assert_close,
    gradients,
    in_pieces,
    leaves,
    lengths_and_cuts,
    pieces,
)


def inputs(num_tokens: int, *, taps: int = 4, batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(num_tokens)
    return leaves(
        torch.randn(batch, num_tokens, 3, dtype=FLOAT64),
        torch.randn(3, taps, dtype=FLOAT64),
        torch.randn(batch, taps - 1, 3, dtype=FLOAT64),
    )


@given(num_tokens=st.integers(1, 12), taps=st.integers(2, 5), with_resets=st.booleans())
def test_it_is_the_reference(num_tokens: int, taps: int, with_resets: bool):
    x, weight, tail = inputs(num_tokens, taps=taps)
    resets_BT = torch.rand(2, num_tokens) < 0.3 if with_resets else None
    found = causal_convolution(x, weight_DY=weight, tail=tail, resets_BT=resets_BT)
    expected = causal_convolution_reference(x, weight_DY=weight, tail=tail, resets_BT=resets_BT)
    assert_close(found, expected, tolerance=1e-13)
    assert_close(gradients(found, (x, weight, tail)), gradients(expected, (x, weight, tail)), tolerance=1e-13)


def test_it_is_pytorchs_depthwise_convolution():
    x, weight, tail = inputs(9)
    y, _ = causal_convolution(x, weight_DY=weight, tail=torch.zeros_like(tail))
    padded = F.pad(x.transpose(1, 2), (3, 0))
    assert_close(y, F.conv1d(padded, weight.unsqueeze(1), groups=3).transpose(1, 2), tolerance=1e-13)


@given(case=lengths_and_cuts(most_tokens=12))
def test_the_tail_carries_it_over_any_cut(case: tuple[int, list[int]]):
    num_tokens, cuts = case
    x, weight, tail = inputs(num_tokens)
    whole = causal_convolution(x, weight_DY=weight, tail=tail)
    cut = in_pieces(
        lambda span, tail: causal_convolution(x[:, span], weight_DY=weight, tail=tail),
        pieces(num_tokens, cuts),
        tail,
    )
    assert_close(cut, whole, tolerance=1e-13)


def test_the_layer_starts_from_zeros():
    layer = CausalConvolution(channels=3, num_taps=4)
    y_BTD, tail = layer(torch.ones(2, 1, 3), tail=layer.initial_tail(2))
    assert_close(y_BTD[:, 0], layer.weight[:, -1].expand(2, -1), tolerance=1e-7)
    assert tail.tolist() == [[[0.0] * 3, [0.0] * 3, [1.0] * 3]] * 2
