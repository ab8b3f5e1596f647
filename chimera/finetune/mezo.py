"""MeZO: fine-tuning by forward passes alone, on latent weights.

    L± = loss(w ± ε s z),   g = (L₊ − L₋) / 2ε,   w ← w − rate · g · s z

z is a direction that a seed gives (`noise`), s what the weights of a group weigh (`grid`): weights are
quantised after they are moved, and a move that does not meet the scale of the rounding changes nothing.
Several pairs of a step average their g. Nothing is kept but the weights themselves: no gradient, no moment,
no copy.

With `sparse`, weights whose code is zero stay where they are. A zero would never leave zero then, so that
every eighth step moves all of them. Papers: MeZO (2023); ZeroQAT (2025) for the loss of the quantised
model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.cross_entropy import IGNORED
from chimera.finetune.noise import DirectionKey, Distribution
from chimera.finetune.trained import Trained, put_on_grid
from chimera.model import ChimeraForCausalLM
from configs.errors import UsageError

ZERO_CODE = 0.5
"""Weights below this share of their group's mean have the code zero."""
_SMALLEST_EPSILON, _LARGEST_EPSILON = 2.0**-14, 1.0
"""What is looked at by less is a few of a weight's units at most, and rounded away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MezoSettings:
    """What a replay has to know."""

    seed: int
    epsilon: float = 0.05
    """Length of a look to each side, as a share of what a group's weights weigh."""
    distribution: Distribution = "rademacher"
    trained: Trained = "ternary"
    sparse: bool = False
    sparse_period: int = 8
    """Every so many steps a sparse run moves zeros as well."""

    def __post_init__(self) -> None:
        if not _SMALLEST_EPSILON <= self.epsilon <= _LARGEST_EPSILON:
            raise UsageError(
                f"epsilon {self.epsilon:g}; allowed are {_SMALLEST_EPSILON:.6f} to {_LARGEST_EPSILON:g}, as "
                "shares of what a group's weights weigh"
            )
        if self.sparse_period < 1:
            raise UsageError(f"a period of {self.sparse_period} steps; allowed are whole numbers from 1 on")


class Mezo:
    """A model whose weights are moved: they stand as a step begins, or to one side of that along one pair."""

    def __init__(self, model: nn.Module, *, settings: MezoSettings) -> None:
        model.eval()
        self.settings = settings
        self.tensors = put_on_grid(model, trained=settings.trained)
        self._at = (0, 0, 0)
        self._masked_for: int | None = None

    @property
    def num_trained(self) -> int:
        """Weights that are moved."""
        return sum(held.weight_RC.numel() for held in self.tensors)

    @property
    def trained_bytes(self) -> int:
        """What the moved weights and their grid take."""
        return sum(
            4 * (held.weight_RC.numel() + held.scale_RG.numel() + held.unit_RG.numel())
            for held in self.tensors
        )

    def look(self, step: int, *, pair: int = 0, side: int) -> None:
        """Stand to one side of a step's weights along a pair's direction: -1, 1, or 0 for none."""
        at_step, at_pair, at_side = self._at
        if (at_step, at_pair) != (step, pair):
            self._go(at_step, at_pair, times=-at_side)
            at_side = 0
        self._prepare(step)
        self._go(step, pair, times=side - at_side)
        self._at = (step, pair, side)

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None:
        """End a step: go so far along the direction of each pair. `decay` is what every weight loses."""
        self.look(step, side=0)
        if decay:
            for held in self.tensors:
                held.decay(decay)
        for pair, length in enumerate(lengths):
            key = self._key(step, pair)
            for held in self.tensors:
                held.move(length, key=key, stay=True)

    def slope(self, above: float, below: float) -> float:
        """g of a pair, out of the losses on its two sides."""
        return (above - below) / (2 * self.settings.epsilon)

    def _go(self, step: int, pair: int, *, times: int) -> None:
        if times:
            key = self._key(step, pair)
            for held in self.tensors:
                held.move(self.settings.epsilon, key=key, times=times)

    def _key(self, step: int, pair: int) -> DirectionKey:
        settings = self.settings
        return DirectionKey(seed=settings.seed, step=step, pair=pair, distribution=settings.distribution)

    def _prepare(self, step: int) -> None:
        """Before the first look of a sparse step: which weights it moves. Weights stand at its beginning."""
        if not self.settings.sparse or self._masked_for == step:
            return
        is_full = (step + 1) % self.settings.sparse_period == 0
        for held in self.tensors:
            if is_full:
                held.mask = None
            else:
                held.skip_small(ZERO_CODE)
        self._masked_for = step


@torch.no_grad()
def sequence_losses(
    model: ChimeraForCausalLM, ids_BT: Tensor, labels_BT: Tensor, *, rounds: int | None = None
) -> Tensor:
    """Each sequence's mean loss over its labelled tokens, float64. The head reads labelled tokens alone."""
    hidden_BTD = model(ids_BT, rounds=rounds, keep_state=False).hidden_BTD
    row_N, at_N = torch.nonzero(labels_BT != IGNORED, as_tuple=True)
    logits_NV = model.logits(hidden_BTD[row_N, at_N]).float()
    # A GPU adds in whatever order its threads come.
    losses_N = F.cross_entropy(logits_NV, labels_BT[row_N, at_N], reduction="none").double().cpu()
    zeros_B, row_N = torch.zeros(ids_BT.shape[0], dtype=torch.float64), row_N.cpu()
    counts_B = zeros_B.index_add(0, row_N, torch.ones_like(losses_N))
    return zeros_B.index_add(0, row_N, losses_N) / counts_B.clamp_min(1)
