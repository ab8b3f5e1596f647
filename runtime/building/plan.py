"""What the parts of a program are built with."""

from dataclasses import dataclass

from configs.inventory import Layer
from configs.schema.model import ModelConfig
from runtime.arena import StateLayout
from runtime.building.tensors import Floats, Tensors
from runtime.building.workspace import Int8Rows, Rows, Workspace
from runtime.program import Count, InState, ProgramBuilder, Step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """A model being built."""

    config: ModelConfig
    tensors: Tensors
    layout: StateLayout
    workspace: Workspace
    program: ProgramBuilder


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

    def together(self, *steps: Step) -> None:
        """Operations on this passage's tokens that need nothing of each other."""
        self.plan.program.together(self.count, *steps)


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
