"""The loop over layers: how its input enters each round, and how many rounds a sequence takes.

    e   = RMSNorm(prelude output)
    u_t = Ā ⊙ h_{t−1} + B̄ e            Ā = exp(−Δa),  a = exp(A_log) > 0,  Δ = softplus(dt_bias) > 0
    h_t = the looped layers of u_t      h_0 = 0
    the coda reads C h_T

B̄ = (1 − Ā)/a · B is the exact zero-order hold; `euler` takes Δ·B, as the Parcae paper does for the input. All
of it is float32 per channel: |Ā| < 1 by its form, whatever is learnt. Paper: Parcae, section 3.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema.looping import Injection
from quant.qat.activations import RMSNorm

INITIAL_DECAY = 0.2**0.5
"""Ā at the start, for a = 1: half-way between forgetting and holding."""


class LoopInjection(nn.Module):
    """The parameters that tie one round to the next. B and C are diagonals, or matrices when `dense`."""

    def __init__(
        self,
        *,
        width: int,
        injection: Injection = "diagonal",
        zoh_input: Literal["exact", "euler"] = "exact",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.zoh_input = zoh_input
        self.prelude_norm = RMSNorm(width, eps=eps)
        self.A_log = nn.Parameter(torch.empty(width))
        self.dt_bias = nn.Parameter(torch.empty(width))
        shape = (width,) if injection == "diagonal" else (width, width)
        self.B = nn.Parameter(torch.empty(shape))
        self.C = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """a = 1, Δ such that Ā = √(1/5), B and C the identity."""
        nn.init.zeros_(self.A_log)
        step = -math.log(INITIAL_DECAY)
        nn.init.constant_(self.dt_bias, math.log(math.expm1(step)))
        for matrix in (self.B, self.C):
            if matrix.dim() == 1:
                nn.init.ones_(matrix)
            else:
                nn.init.eye_(matrix)

    def decay_and_gain(self) -> tuple[Tensor, Tensor]:
        """Ā and the gain of the input before B, each [D]."""
        rate = self.A_log.exp()
        step = F.softplus(self.dt_bias)
        gain = step if self.zoh_input == "euler" else -torch.expm1(-step * rate) / rate
        return torch.exp(-step * rate), gain

    def enter(self, x_BTD: Tensor) -> Tensor:
        """What every round is fed: the normed output of the prelude, through B and the gain."""
        with torch.autocast(device_type=x_BTD.device.type, enabled=False):
            _, gain = self.decay_and_gain()
            return _apply(self.B, self.prelude_norm(x_BTD)) * gain

    def mix(self, h_BTD: Tensor, input_BTD: Tensor) -> Tensor:
        """The input of the next round from the output of the last, u = Ā ⊙ h + B̄ e."""
        decay, _ = self.decay_and_gain()
        return decay * h_BTD + input_BTD

    def leave(self, h_BTD: Tensor) -> Tensor:
        """What the coda reads."""
        with torch.autocast(device_type=h_BTD.device.type, enabled=False):
            return _apply(self.C, h_BTD)


def _apply(matrix: Tensor, x_BTD: Tensor) -> Tensor:
    x_BTD = x_BTD.to(matrix.dtype)
    return x_BTD * matrix if matrix.dim() == 1 else F.linear(x_BTD, matrix)


def draw_rounds(batch: int, *, mean: int, least: int, most: int, generator: torch.Generator) -> list[int]:
    """Rounds for each sequence: Poisson of the mean, held within the range, spread evenly over the batch.

    The draws are systematic: one random offset, then even steps through the distribution. Each sequence's
    rounds are distributed as if drawn alone, while the work of a batch hardly varies. The generator lives on
    the CPU and is seeded by the step, so that a repeated step repeats its draws.
    """
    bounds: list[float] = []
    total, term = 0.0, math.exp(-mean)
    for rounds in range(most):
        total += term
        term *= mean / (rounds + 1)
        if rounds >= least:
            bounds.append(total)
    offset = torch.rand((), generator=generator).item()
    drawn = [least + sum((row + offset) / batch >= bound for bound in bounds) for row in range(batch)]
    order = torch.randperm(batch, generator=generator).tolist()
    return [drawn[row] for row in order]


def rounds_with_gradient(rounds: int, truncation: Literal["half", "none"]) -> int:
    """The last rounds that training goes back through."""
    return -(-rounds // 2) if truncation == "half" else rounds


def groups_of_round(
    rounds: Sequence[int], done: int, truncation: Literal["half", "none"]
) -> list[tuple[int, int, bool]]:
    """Runs of rows treated alike in round `done`, rows sorted by falling rounds: first, after, gradient.

    Rows that have had their rounds are in no run. Deep rows still lie before the rounds with gradient.
    """
    active = sum(count > done for count in rounds)
    idle = sum(done < count - rounds_with_gradient(count, truncation) for count in rounds[:active])
    return [run for run in ((0, idle, False), (idle, active, True)) if run[1] > run[0]]
