"""The inverse of unit lower triangular matrices, against a triangular solve."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.mixers.triangular import unit_lower_inverse
from tests.chimera.mixers.helpers import FLOAT64


def solved(a: torch.Tensor) -> torch.Tensor:
    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    return torch.linalg.solve_triangular(a, identity.expand_as(a), upper=False, unitriangular=True)


@given(size=st.integers(1, 80), batch=st.sampled_from([(), (2,), (2, 3)]))
def test_it_inverts(size: int, batch: tuple[int, ...]):
    torch.manual_seed(size)
    a = 0.5 * torch.randn(*batch, size, size, dtype=FLOAT64).tril(-1)
    inverse = unit_lower_inverse(a)
    assert inverse.shape == a.shape
    expected = solved(a)
    assert (inverse - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("size", [5, 16, 21])
def test_its_gradient(size: int):
    a = torch.randn(2, size, size, dtype=FLOAT64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unit_lower_inverse(0.3 * x.tril(-1)), (a,), fast_mode=True)


@pytest.mark.parametrize("size", [64, 256])
def test_alike_keys_neither_overflow_nor_lose_digits(size: int):
    # Keys all equal and write gates one: powers of this matrix reach 1e75 at size 256, its inverse only 1.
    a = torch.ones(size, size).tril(-1)
    inverse = unit_lower_inverse(a)
    assert torch.equal(inverse, solved(a))
