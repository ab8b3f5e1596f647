"""The chunked cross-entropy against PyTorch's, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.cross_entropy import IGNORED, cross_entropy, cut_cross_entropy, mean_loss
from configs.errors import UsageError


def example(tokens: int = 7, words: int = 53, width: int = 12, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(tokens * words)
    x = torch.randn(tokens, width, generator=generator, dtype=dtype)
    weight = torch.randn(words, width, generator=generator, dtype=dtype)
    labels = torch.randint(words, (tokens,), generator=generator)
    labels[::3] = IGNORED
    return x.requires_grad_(), weight.requires_grad_(), labels


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 9), words=st.integers(2, 70), chunk=st.integers(1, 80))
def test_equals_pytorch_in_values_and_gradients(tokens: int, words: int, chunk: int):
    x, weight, labels = example(tokens, words)
    expected = F.cross_entropy(x @ weight.T, labels, ignore_index=IGNORED, reduction="none")
    found = cut_cross_entropy(x, weight_ND=weight, labels_T=labels, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    pull = torch.linspace(-1, 2, tokens, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, (x, weight), pull)
    torch.testing.assert_close(torch.autograd.grad(found, (x, weight), pull), wanted, rtol=1e-10, atol=1e-12)


def test_gradients_agree_with_finite_differences():
    x, weight, labels = example(tokens=4, words=9, width=3)
    assert torch.autograd.gradcheck(
        lambda a, b: cut_cross_entropy(a, weight_ND=b, labels_T=labels, chunk=4), (x, weight)
    )


def test_large_scores_neither_overflow_nor_lose_the_gradient():
    x, weight, labels = example(dtype=torch.float32)
    loss = mean_loss(cut_cross_entropy(x * 1e3, weight_ND=weight, labels_T=labels, chunk=10), labels)
    grads = torch.autograd.grad(loss, (x, weight))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(grad).all() and grad.norm() > 0 for grad in grads)


def test_a_batch_without_labels_costs_nothing_and_moves_nothing():
    x, weight, labels = example()
    loss = mean_loss(
        cut_cross_entropy(x, weight_ND=weight, labels_T=torch.full_like(labels, IGNORED)),
        labels.fill_(IGNORED),
    )
    grads = torch.autograd.grad(loss, (x, weight))
    assert loss == 0
    assert all((grad == 0).all() for grad in grads)


def test_bfloat16_products_are_summed_in_float32():
    x, weight, labels = example(tokens=32, words=4000, width=64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cut_cross_entropy(x, weight_ND=weight, labels_T=labels, chunk=700)
        plain = cross_entropy(x, weight_ND=weight, labels_T=labels)
    assert found.dtype == torch.float32
    # Both round the products to bfloat16 at most once: 8 bits of logits of size √64.
    torch.testing.assert_close(found, plain, rtol=0, atol=2**-8 * 4 * 8)
    grad_x, grad_weight = torch.autograd.grad(found.sum(), (x, weight))
    assert grad_x.dtype == grad_weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "words"),
    [(torch.zeros(3, dtype=torch.int64), "3"), (torch.zeros(7, dtype=torch.int32), "int64")],
)
def test_unfit_labels_are_refused(labels: torch.Tensor, words: str):
    x, weight, _ = example()
    with pytest.raises(UsageError, match=words):
        cut_cross_entropy(x, weight_ND=weight, labels_T=labels)


def test_a_chunk_of_nothing_is_refused():
    x, weight, labels = example()
    with pytest.raises(UsageError, match="chunk of 0"):
        cut_cross_entropy(x, weight_ND=weight, labels_T=labels, chunk=0)
