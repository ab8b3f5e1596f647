"""A gated low-rank correction beside a ternary projection (hybrid gated flow), which reads its input:

    y = x̃ Q(W)ᵀ + Q₈(x̃ A) Q₈(g B)        g = tanh(gate), one number a projection

A and B are int8 by rows in the file, as the embedding is, and what is between them is int8 by block as every
activation; training sees those values. The gate lies in B's rows, so running it takes two int8 products and a
sum. B begins at 0: the model begins as it would be without.

The gates are pulled to 0 by `GATE_PENALTY` · Σ g², and stand still after `GATE_SHARE` of a run. Routed
experts have none: each learns from few tokens, and would be read from disk with a tenth more. After the paper
on hybrid gated flow (2026), which leaves rank and schedule open.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.activations import BLOCK, ActBlock
from quant.qat.activations import fake_quantize_activations
from quant.qat.embedding import quantized_rows
from quant.qat.straight_through import straight_through

GATE_START = 0.1
GATE_PENALTY = 1e-3
GATE_SHARE = 0.7


class Correction(nn.Module):
    """The correction alone; who owns it adds it to its product."""

    quant_mix: Tensor | None

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        rank: int,
        act_block: ActBlock = BLOCK,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.act_block: ActBlock = act_block
        self.down = nn.Parameter(torch.empty(rank, num_inputs, device=device, dtype=torch.float32))
        self.up = nn.Parameter(torch.empty(num_outputs, rank, device=device, dtype=torch.float32))
        self.gate = nn.Parameter(torch.empty(1, device=device, dtype=torch.float32))
        self.register_buffer("quant_mix", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # A standard deviation that keeps an input's size, but for the third of a uniform distribution.
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        nn.init.zeros_(self.up)
        nn.init.constant_(self.gate, GATE_START)

    def forward(self, x_quantized: Tensor) -> Tensor:
        hidden = F.linear(x_quantized, self.down_weight())
        hidden = fake_quantize_activations(hidden, block=self.act_block, mix=self.quant_mix)
        return F.linear(hidden, self.up_weight())

    def down_weight(self) -> Tensor:
        """A as the product sees it, [rank, inputs]."""
        return self._rows(self.down)

    def up_weight(self) -> Tensor:
        """g B as the product sees it, [outputs, rank]."""
        return self._rows(self.gated_up())

    def gated_up(self) -> Tensor:
        """g B before it is quantised: what a file holds the rows of."""
        return torch.tanh(self.gate) * self.up

    def _rows(self, weight: Tensor) -> Tensor:
        weight = weight.float()
        return straight_through(weight, quantized_rows(weight, bits=8), mix=self.quant_mix)

    def extra_repr(self) -> str:
        return f"rank={self.down.shape[0]}"


def gates_of(module: nn.Module) -> list[nn.Parameter]:
    """The gates of all corrections below a module."""
    return [child.gate for child in module.modules() if isinstance(child, Correction)]


def gate_penalty(gates: list[nn.Parameter]) -> Tensor:
    """What the gates add to the loss."""
    return GATE_PENALTY * torch.tanh(torch.cat(tuple(gates))).square().sum()
