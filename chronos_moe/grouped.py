"""One product per block of rows: row u times the weight of the expert that owns it.

bfloat16 goes to PyTorch's grouped product, one kernel on a GPU that knows the blocks' ends without asking the
CPU. It has no other type that torch.compile accepts, so those go block by block, as operators of our own: a
compiled graph holds them whole, though on a GPU they wait for the ends.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPED_ALIGNMENT = (
    8  # bfloat16 values in the 16 bytes that the grouped kernel wants a row to be a multiple of
)


def grouped_linear(x_UI: Tensor, weight_EOI: Tensor, *, ends_E: Tensor) -> Tensor:
    """Each block of rows times the weight of its expert, [U, O]; an empty block gives the gradient 0."""
    if x_UI.dtype != torch.bfloat16:
        return block_linear(x_UI, weight_EOI, ends_E)
    num_outputs = weight_EOI.shape[1]
    pad_inputs, pad_outputs = -x_UI.shape[1] % GROUPED_ALIGNMENT, -num_outputs % GROUPED_ALIGNMENT
    if pad_inputs or pad_outputs:
        x_UI = F.pad(x_UI, (0, pad_inputs))
        weight_EOI = F.pad(weight_EOI, (0, pad_inputs, 0, pad_outputs))
    y_UO = F.grouped_mm(x_UI, weight_EOI.transpose(1, 2), offs=ends_E)
    return y_UO[:, :num_outputs] if pad_outputs else y_UO


@torch.library.custom_op("chronos_moe::block_linear", mutates_args=())
def block_linear(x_UI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """[U, O] in any floating type."""
    y_UO = x_UI.new_empty(x_UI.shape[0], weight_EOI.shape[1])
    for expert, rows in _blocks(ends_E):
        torch.mm(x_UI[rows], weight_EOI[expert].T, out=y_UO[rows])
    return y_UO


@torch.library.custom_op("chronos_moe::block_outer", mutates_args=())
def block_outer(grad_UO: Tensor, x_UI: Tensor, ends_E: Tensor) -> Tensor:
    """The gradient of the weights, [E, O, I]; of an empty block 0."""
    grad_EOI = x_UI.new_zeros(ends_E.shape[0], grad_UO.shape[1], x_UI.shape[1])
    for expert, rows in _blocks(ends_E):
        torch.mm(grad_UO[rows].T, x_UI[rows], out=grad_EOI[expert])
    return grad_EOI


@block_linear.register_fake
def _(x_UI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    return x_UI.new_empty(x_UI.shape[0], weight_EOI.shape[1])


@block_outer.register_fake
def _(grad_UO: Tensor, x_UI: Tensor, ends_E: Tensor) -> Tensor:
    return x_UI.new_empty(ends_E.shape[0], grad_UO.shape[1], x_UI.shape[1])


def _keep_operands(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_UO: Tensor) -> tuple[Tensor, Tensor, None]:
    x_UI, weight_EOI, ends_E = ctx.saved_tensors
    grad_x_UI = block_linear(grad_UO, weight_EOI.transpose(1, 2), ends_E)
    return grad_x_UI, block_outer(grad_UO, x_UI, ends_E), None


block_linear.register_autograd(_backward, setup_context=_keep_operands)


def _blocks(ends_E: Tensor) -> Iterator[tuple[int, slice]]:
    """The experts that have rows, and their rows."""
    for expert, (start, end) in enumerate(itertools.pairwise([0, *ends_E.tolist()])):
        if end > start:
            yield expert, slice(start, end)
