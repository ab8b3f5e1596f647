"""Sorted dispatch: pairs of token and expert in blocks, one block per expert, and back again.

The pairs (token t, its a-th expert) are numbered t·A + a and sorted by expert, stably. Every expert then
owns one contiguous block of rows, however many tokens it got: nothing is dropped and nothing is padded.
Since each pair has one place, the way back is a gather by the inverse permutation and a sum over A in its
written order. There is no `index_add`, forward or backward: its atomics add in another order each time on a
GPU.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class Dispatch(NamedTuple):
    """Where every pair went. All are int64 but `ends_E`, which the grouped product wants as int32."""

    order_U: Tensor  # place → pair
    place_TA: Tensor  # pair → place
    expert_U: Tensor  # place → expert, rising
    ends_E: Tensor  # int32: where each expert's block ends


def dispatch(expert_TA: Tensor, *, num_experts: int) -> Dispatch:
    """Sort the pairs by expert. Has no step whose shape depends on the data."""
    # Two bytes are two passes of a GPU's radix sort, eight bytes are eight.
    assert num_experts <= torch.iinfo(torch.int16).max
    sorted_U, order_U = expert_TA.reshape(-1).to(torch.int16).sort(stable=True)
    places = torch.arange(order_U.numel(), device=order_U.device)
    place_U = torch.empty_like(order_U).scatter(0, order_U, places)
    # Rows before the end of block e are those with an expert up to e; the blocks are sorted, so a search
    # finds it.
    experts = torch.arange(num_experts, dtype=torch.int16, device=order_U.device)
    ends_E = torch.searchsorted(sorted_U, experts, right=True).to(torch.int32)
    return Dispatch(
        order_U=order_U, place_TA=place_U.view_as(expert_TA), expert_U=sorted_U.long(), ends_E=ends_E
    )


def spread(x_TD: Tensor, *, to: Dispatch) -> Tensor:
    """The row of each token at the places of its pairs, [U, D]."""
    return _Spread.apply(x_TD, to.order_U, to.place_TA)  # pyright: ignore[reportReturnType]


def gather_pairs(rows_UD: Tensor, *, back: Dispatch) -> Tensor:
    """The rows of each token's pairs side by side, [T, A, D]."""
    return _Gather.apply(rows_UD, back.order_U, back.place_TA)  # pyright: ignore[reportReturnType]


def expert_rows(table_ED: Tensor, *, of: Dispatch) -> Tensor:
    """A row per expert at each of its places, [U, D]."""
    return _ExpertRows.apply(table_ED, of.expert_U)  # pyright: ignore[reportReturnType]


class _Spread(Function):
    """Backward: the gradients of a token's pairs, summed in the order of its experts."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_U: Tensor, place_TA: Tensor) -> Tensor:
        ctx.save_for_backward(place_TA)
        return x_TD.index_select(0, order_U.div(place_TA.shape[1], rounding_mode="floor"))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_UD,), (place_TA,) = grads, ctx.saved_tensors
        return _at_places(grad_UD, place_TA).sum(dim=1), None, None


class _Gather(Function):
    """Backward: a permutation has its inverse for a gradient, and that is a gather too."""

    @staticmethod
    def forward(ctx: Any, rows_UD: Tensor, order_U: Tensor, place_TA: Tensor) -> Tensor:
        ctx.save_for_backward(order_U)
        return _at_places(rows_UD, place_TA)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_TAD,), (order_U,) = grads, ctx.saved_tensors
        return grad_TAD.flatten(end_dim=1).index_select(0, order_U), None, None


class _ExpertRows(Function):
    """Backward: sums over blocks, as a product with a matrix of zeros and ones."""

    @staticmethod
    def forward(ctx: Any, table_ED: Tensor, expert_U: Tensor) -> Tensor:
        ctx.save_for_backward(expert_U)
        ctx.num_experts = table_ED.shape[0]
        return table_ED.index_select(0, expert_U)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad_UD,), (expert_U,) = grads, ctx.saved_tensors
        experts = torch.arange(ctx.num_experts, device=expert_U.device)
        member_EU = (experts[:, None] == expert_U[None, :]).to(grad_UD.dtype)
        with torch.autocast(device_type=grad_UD.device.type, enabled=False):
            return member_EU @ grad_UD, None


def _at_places(rows_UD: Tensor, place_TA: Tensor) -> Tensor:
    return rows_UD.index_select(0, place_TA.reshape(-1)).view(*place_TA.shape, -1)
