"""What the parts of a program are built with."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from configs.inventory import Layer
from configs.schema.model import ModelConfig
from runtime.arena import StateLayout
from runtime.building.tensors import Floats, Tensors
from runtime.building.workspace import Int8Rows, Rows, Workspace
from runtime.program import Count, InState, ProgramBuilder, Step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeltaGates:
    """Where a layer of the delta rule leaves its gates before their activation, and what that takes."""

    alphas: Rows
    betas: Rows
    rates: Floats
    biases: Floats
    is_exact: bool
    is_looped: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """Where a pass through a layer with experts leaves which of them its tokens visit."""

    layer: int
    round_number: int
    experts_TA: NDArray[np.int64]
    """The best first; of the tokens that are in the round."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """A model being built."""

    config: ModelConfig
    tensors: Tensors
    layout: StateLayout
    workspace: Workspace
    program: ProgramBuilder
    delta_gates: list[DeltaGates] = field(default_factory=list[DeltaGates])
    """Of each such layer, to be looked at after a call."""
    chosen: list[Chosen] = field(default_factory=list[Chosen])
    """Of each pass through a layer with experts, in the order in which a token takes them."""
    foresees: bool = False
    """Whether the lookahead router runs, and what is decided ahead is told, though no expert is on disk."""
    num_streams: int = 1
    """Streams that a call may have tokens of."""

    def count(self, cells: NDArray[np.int64]) -> Count:
        """A number of tokens in the first cell, and in the others, if there are more, that of each stream."""
        streams = tuple(Count(cell=cells[place : place + 1]) for place in range(1, len(cells)))
        return Count(cell=cells[:1], streams=streams)

    @property
    def num_counts(self) -> int:
        """Cells that a count takes."""
        return 1 + self.num_streams if self.num_streams > 1 else 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Projection:
    """A product with what runs beside it, and what comes behind it, one step after another."""

    product: Step
    beside: tuple[Step, ...] = ()
    behind: tuple[Step, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Passage:
    """One layer in one round: its tensors, its state, and the tokens that go through it."""

    plan: Plan
    layer: Layer
    round_number: int
    count: Count

    @property
    def config(self) -> ModelConfig:
        return self.plan.config

    @property
    def tensors(self) -> Tensors:
        return self.plan.tensors

    @property
    def workspace(self) -> Workspace:
        return self.plan.workspace

    @property
    def eps(self) -> float:
        return self.config.rms_norm_eps

    def name(self, tensor: str) -> str:
        """A tensor's name in the file."""
        return f"layers.{self.layer.index}.{tensor}"

    def floats(self, tensor: str) -> Floats:
        return self.tensors.floats(self.name(tensor))

    def state(self, field: str) -> InState:
        """Where a field of the layer's state is."""
        return InState(self.plan.layout.place(self.layer.index, self.round_number, field).offset)

    def together(self, *steps: Step | Projection) -> None:
        """Operations on this passage's tokens that need nothing of each other; then what is behind them."""
        projections = [step for step in steps if isinstance(step, Projection)]
        beside = [step for found in projections for step in found.beside]
        products = [step.product if isinstance(step, Projection) else step for step in steps]
        self.plan.program.together(self.count, *products, *beside)
        for group in zip(*(found.behind for found in projections if found.behind), strict=True):
            self.plan.program.together(self.count, *group)


@dataclass(kw_only=True, slots=True, eq=False)
class Stream:
    """The residual stream while a program is built: its rows, and what has still to be added to them.

    The sum is left to the next operation that reads it, which norms it in the same go.
    """

    x: Rows
    addend: Rows | None = None
    normed: Rows
    acts: Int8Rows

    def take_addend(self) -> Rows | None:
        """What has still to be added; whoever takes it adds it."""
        found, self.addend = self.addend, None
        return found
