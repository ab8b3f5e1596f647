"""Sorted dispatch: a permutation there and back, a block per expert, gradients in a fixed order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronos_moe.dispatch import dispatch, expert_rows, gather_pairs, spread
from chronos_moe.grouped import block_linear, block_outer, grouped_linear


def experts_of(num_tokens: int, num_chosen: int, num_experts: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_tokens, num_experts, generator=generator).topk(num_chosen, dim=-1).indices


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


SIZES = {"num_tokens": st.integers(1, 40), "num_experts": st.integers(2, 9), "seed": st.integers(0, 10_000)}


@settings(max_examples=40, deadline=None)
@given(**SIZES, data=st.data())
def test_blocks_hold_every_pair_once_in_stable_order(
    num_tokens: int, num_experts: int, seed: int, data: st.DataObject
):
    num_chosen = data.draw(st.integers(1, num_experts))
    expert_TA = experts_of(num_tokens, num_chosen, num_experts, seed=seed)
    to = dispatch(expert_TA, num_experts=num_experts)
    flat = expert_TA.flatten()
    assert torch.equal(to.order_U, torch.argsort(flat, stable=True))
    assert torch.equal(to.expert_U, flat[to.order_U])
    assert torch.equal(to.ends_E.long(), torch.bincount(flat, minlength=num_experts).cumsum(0))
    assert torch.equal(to.order_U[to.place_TA.flatten()], torch.arange(num_tokens * num_chosen))


def test_rows_go_to_their_places_and_come_back():
    expert_TA = experts_of(13, 3, 6)
    to = dispatch(expert_TA, num_experts=6)
    x_TD = normal(13, 5)
    rows_UD = spread(x_TD, to=to)
    assert torch.equal(rows_UD, x_TD[to.order_U // 3])
    assert torch.equal(gather_pairs(rows_UD, back=to), x_TD[:, None].expand(13, 3, 5))
    table_ED = normal(6, 5, seed=1)
    assert torch.equal(expert_rows(table_ED, of=to), table_ED[to.expert_U])


def test_gradients_of_the_ways_there_and_back():
    to = dispatch(experts_of(7, 2, 5), num_experts=5)
    x, rows, table = normal(7, 3), normal(14, 3, seed=1), normal(5, 3, seed=2)
    for function, argument in (
        (lambda x: spread(x, to=to), x),
        (lambda rows: gather_pairs(rows, back=to), rows),
        (lambda table: expert_rows(table, of=to), table),
    ):
        assert torch.autograd.gradcheck(function, (argument.requires_grad_(),))


def plain_product(x_UI: Tensor, weight_EOI: Tensor, expert_U: Tensor) -> Tensor:
    return torch.einsum("ui,uoi->uo", x_UI, weight_EOI[expert_U])


# Widths with and without the 16 bytes that the grouped kernel wants a row to be a multiple of.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(16, 24), (12, 24), (16, 7), (5, 3)])
def test_grouped_product_is_the_plain_one(dtype: torch.dtype, num_inputs: int, num_outputs: int):
    expert_TA = experts_of(30, 2, 6)
    expert_TA[expert_TA == 4] = 5
    expert_TA[expert_TA == 0] = 1
    to = dispatch(expert_TA, num_experts=6)
    x, weight = normal(60, num_inputs), normal(6, num_outputs, num_inputs, seed=1)
    direction = normal(60, num_outputs, seed=2)
    ours = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    y = grouped_linear(ours[0], ours[1], ends_E=to.ends_E)
    y_exact = plain_product(exact[0], exact[1], to.expert_U)
    y.backward(direction.to(dtype))
    y_exact.backward(direction.to(dtype).double())
    # Two roundings of a sum of n products of unit size: a few eps·sqrt(n), n the longest sum (a block's
    # rows).
    bound = 4 * torch.finfo(dtype).eps * 60**0.5
    torch.testing.assert_close(y.double(), y_exact, atol=bound * 4, rtol=bound)
    for got, expected in zip(ours, exact, strict=True):
        assert got.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(got.grad.double(), expected.grad, atol=bound * 8, rtol=bound)
    assert ours[1].grad is not None
    assert torch.equal(ours[1].grad[[0, 4]], torch.zeros(2, num_outputs, num_inputs, dtype=dtype)), (
        "idle experts"
    )


def test_our_operators_keep_the_rules_of_torch():
    """Shapes under tracing, no hidden writes, gradients: PyTorch's own check of an operator."""
    ends_E = torch.tensor([4, 4, 10], dtype=torch.int32)
    x, weight = normal(10, 3).requires_grad_(), normal(3, 5, 3, seed=1).requires_grad_()
    torch.library.opcheck(block_linear, (x, weight, ends_E))
    torch.library.opcheck(block_outer, (normal(10, 5, seed=2), x.detach(), ends_E))
    assert torch.autograd.gradcheck(lambda x, weight: grouped_linear(x, weight, ends_E=ends_E), (x, weight))
