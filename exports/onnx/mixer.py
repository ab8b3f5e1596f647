"""What every mixer's graph is given, and the short convolution before the recurrence."""

from dataclasses import dataclass

import numpy as np

from configs.schema.model import ModelConfig
from exports.onnx.functions import rms_norm
from exports.onnx.graph import Graph
from exports.onnx.states import CONV, StateTensor, Visit
from exports.onnx.weights import Floats, Weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixer:
    """A layer's mixer in one round."""

    graph: Graph
    weights: Weights
    visit: Visit
    position: str
    """Tokens read before this call, [B]; empty where no layer needs it."""

    @property
    def config(self) -> ModelConfig:
        return self.weights.config

    def named(self, name: str) -> str:
        """The whole name of a tensor."""
        return f"layers.{self.visit.layer.index}.mixer.{name}"

    def floats(self, name: str) -> str:
        return self.weights.floats(self.graph, self.named(name))

    def array(self, name: str) -> Floats:
        return self.weights.tensors.floats(self.named(name))

    def norm(self, x: str, name: str) -> str:
        return rms_norm(self.graph, x, self.floats(name), eps=self.config.rms_norm_eps)

    def projected(self, x: str, *names: str) -> list[str]:
        """Ternary projections of one input, each [B, T, H·K]."""
        y = self.weights.ternary(self.graph, x, *(self.named(f"{name}_proj.weight") for name in names))
        return self.graph.split(y, [self.config.inner_width] * len(names), axis=2)

    def gates(self, x: str, *names: str) -> list[str]:
        """Float projections of one number a head, each [B, T, H]."""
        y = self.weights.dense(self.graph, x, *(self.named(f"{name}_proj.weight") for name in names))
        return self.graph.split(y, [self.config.num_heads] * len(names), axis=2)

    def state(self, name: str) -> StateTensor:
        return self.visit.states[name]

    def convolved(self, x: str, *names: str, past: str, present: str) -> str:
        """The short convolution with SiLU of [B, T, channels]; `names` are its parts along the channels."""
        graph = self.graph
        taps = np.concatenate([self.array(f"{name}.weight") for name in names])[:, None]
        y, _ = graph.ops(
            ".CausalConvWithState",
            graph.transpose(x, 0, 2, 1),
            graph.constant(taps, stem=self.named(names[0])),
            "",
            past,
            attributes={"activation": "silu", "ndim": 1},
            outputs=(graph.name("convolved"), present),
        )
        return graph.transpose(y, 0, 2, 1)

    def convolved_qkv(self, x: str, *, taps: int) -> str:
        """Queries, keys and values of [B, T, 3·H·K] behind their convolutions."""
        graph, state = self.graph, self.state(CONV)
        names = "q_conv", "k_conv", "v_conv"
        channels, columns = state.shape
        used = 3 * self.config.inner_width, taps - 1
        if (channels, columns) == used:
            return self.convolved(x, *names, past=state.past, present=state.present)
        past = self.trimmed(state.past, channels=used[0], columns=used[1])
        present = graph.name("tail")
        y = self.convolved(x, *names, past=past, present=present)
        self.padded(present, state, used=used)
        return y

    def trimmed(self, past: str, *, channels: int, columns: int) -> str:
        """The part of a padded state that a convolution uses."""
        first, last = self.graph.constant([0, 0]), self.graph.constant([channels, columns])
        return self.graph.op("Slice", past, first, last, self.graph.constant([1, 2]))

    def padded(self, tail: str, state: StateTensor, *, used: tuple[int, int]) -> None:
        """A state with zeros behind what is used."""
        rows, columns = (whole - part for whole, part in zip(state.shape, used, strict=True))
        pads = self.graph.constant([0, 0, 0, 0, rows, columns])
        self.graph.op("Pad", tail, pads, to=state.present)
