"""What the mixers' tests share: comparing forms, states and gradients."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOAT64 = torch.float64


def flat(tree: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif tree is not None:
        for part in tree:
            yield from flat(part)


def assert_close(actual: Any, expected: Any, *, tolerance: float) -> None:
    """All tensors alike, relative to the largest value of each."""
    pairs = list(zip(flat(actual), flat(expected), strict=True))
    assert pairs
    for one, other in pairs:
        assert one.shape == other.shape
        if not one.is_floating_point():
            assert torch.equal(one, other)
            continue
        scale = other[other.isfinite()].abs().max().item() if other.isfinite().any() else 0.0
        torch.testing.assert_close(
            one, other, rtol=0.0, atol=tolerance * max(1.0, scale), check_dtype=False, equal_nan=False
        )


def gradients(outputs: Any, inputs: Sequence[Tensor], *, seed: int = 0) -> list[Tensor]:
    """Gradients of a random weighting of all outputs; zeros where an input has no part in them."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    total = torch.zeros((), dtype=FLOAT64)
    for output in flat(outputs):
        if output.requires_grad:
            finite = torch.where(output.isfinite(), output, 0.0)
            total = total + (finite * torch.randn(output.shape, generator=generator)).sum()
    found = torch.autograd.grad(total, list(inputs), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def leaves(*tensors: Tensor) -> list[Tensor]:
    """The same tensors as inputs to differentiate by."""
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def pieces(num_tokens: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """The spans between cuts."""
    borders = sorted({0, num_tokens, *(cut for cut in cuts if 0 < cut < num_tokens)})
    return list(itertools.pairwise(borders))


def lengths_and_cuts(*, most_tokens: int) -> st.SearchStrategy[tuple[int, list[int]]]:
    """A number of tokens, and places to cut it."""
    return st.integers(1, most_tokens).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(1, most_tokens), max_size=4))
    )


def resets_at(num_tokens: int, starts: Sequence[int]) -> Tensor:
    """One row whose documents begin at these tokens."""
    resets_BT = torch.zeros(1, num_tokens, dtype=torch.bool)
    resets_BT[0, list(starts)] = True
    return resets_BT


def in_pieces(
    run: Callable[[slice, Any], tuple[Tensor, Any]], spans: Sequence[tuple[int, int]], state: Any
) -> tuple[Tensor, Any]:
    """A form run over spans of tokens, the state handed on."""
    outputs: list[Tensor] = []
    for start, stop in spans:
        output, state = run(slice(start, stop), state)
        outputs.append(output)
    return torch.cat(outputs, dim=1), state
