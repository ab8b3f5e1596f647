"""The reference engine: the same file, the same bits, one token at a time, and nothing but NumPy."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.inventory import Layer, layers
from quant.embedding import lookup_rows, rows_matmul
from quant.kernels.dense.reference import dense
from quant.kernels.elementary.reference import canonical
from quant.kernels.norm.reference import Quantized, rms_norm, rms_norm_quantize
from quant.kernels.rounds.reference import decay_and_gain, keep_rounds, mix_rounds, scale_rows
from runtime.arena import StateField
from runtime.building.states import FIELDS, check_runnable
from runtime.building.tensors import Tensors
from runtime.model_folder import PackedModel
from runtime.reference.feed_forward import feed_forward
from runtime.reference.foresight import foresee
from runtime.reference.mixers import LayerState, mixer
from runtime.reference.weights import Floats, ReferenceWeights, activations

ONLY = np.zeros(1, dtype=np.int64)
"""The one token, among those that are in the loop."""


@dataclass(kw_only=True, slots=True)
class ReferenceState:
    """A stream: the states of each layer and round."""

    rounds: int
    position: int = 0
    layers: list[list[LayerState]] = field(default_factory=list[list[LayerState]])


class ReferenceEngine:
    """What `runtime.engine.Engine` computes."""

    def __init__(self, model: PackedModel) -> None:
        check_runnable(model.config)
        self.config = model.config
        self._weights = ReferenceWeights(model.config, Tensors(model))
        self._embedding = self._weights.rows("embedding.weight")
        self._layers = layers(model.config)
        self.hidden: Quantized | None = None
        """What the head reads of the last token."""
        self.rounds_taken = 0
        """Rounds that the last token took."""
        self.visited: list[NDArray[np.int64]] = []
        """The experts that the last token visited, pass by pass."""
        self.foresight: Floats | None = None
        """What the lookahead router says behind it [steps, layers with experts, experts], if there is one."""
        self._behind: dict[int, Floats] = {}

    def new_state(self, rounds: int | None = None) -> ReferenceState:
        """A stream before its first token."""
        rounds = self.config.rounds_default if rounds is None else rounds
        return ReferenceState(
            rounds=rounds,
            layers=[
                [self._layer_state(layer) for _ in range(rounds if layer.looped else 1)]
                for layer in self._layers
            ],
        )

    def step(
        self, state: ReferenceState, token: int, *, rounds: int | None = None, exit_threshold: float = 0.0
    ) -> None:
        """Read one token."""
        rounds = state.rounds if rounds is None else rounds
        x_TD = lookup_rows(self._embedding, np.array([token]))
        self.visited.clear()
        looping = self.config.looping
        if looping.enabled:
            x_TD = self._through(x_TD, self._layers[: looping.loop[0]], state, 0)
            x_TD = self._loop(x_TD, state, rounds, np.float32(exit_threshold))
            self._behind[looping.loop[1]] = x_TD
            x_TD = self._through(x_TD, self._layers[looping.loop[1] + 1 :], state, 0)
        else:
            x_TD = self._through(x_TD, self._layers, state, 0)
        self.hidden = rms_norm_quantize(x_TD, self._weights.floats("final_norm.weight"), self._weights.eps)
        state.position += 1

    def logits(self) -> Floats:
        """Scores of every word after the last token, [vocabulary]."""
        if self.hidden is None:
            raise UsageError("no token was read yet")
        return rows_matmul(self._embedding, activations(self.hidden, width=self.config.hidden_size))[0]

    def _through(self, x_TD: Floats, some: tuple[Layer, ...], state: ReferenceState, number: int) -> Floats:
        for layer in some:
            held = state.layers[layer.index][number]
            x_TD = _sum(x_TD, mixer(self._weights, layer, x_TD, held))
            x_TD = _sum(x_TD, self._feed_forward(layer, x_TD))
            self._behind[layer.index] = x_TD
            if layer.index == 0:
                self.foresight = foresee(self._weights, x_TD)
        return x_TD

    def _feed_forward(self, layer: Layer, x_TD: Floats) -> Floats:
        source = layer.decided_behind
        deciding_TD = None if source is None else self._behind[source]
        return feed_forward(self._weights, layer, x_TD, deciding_TD=deciding_TD, visited=self.visited)

    def _loop(self, x_TD: Floats, state: ReferenceState, rounds: int, threshold: np.float32) -> Floats:
        weights, is_exact = self._weights, self.config.looping.zoh_input == "exact"
        decay_D, gain_D = decay_and_gain(
            weights.floats("loop.A_log"), weights.floats("loop.dt_bias"), exact=is_exact
        )
        matrices = {name: weights.floats(f"loop.{name}") for name in ("B", "C")}
        normed_TD = rms_norm(x_TD, weights.floats("loop.prelude_norm.weight"), weights.eps)
        if matrices["B"].ndim == 1:
            fed_TD = scale_rows(normed_TD, matrices["B"], gain_D)
        else:
            fed_TD = scale_rows(dense(normed_TD, matrices["B"]), gain_D)
        looped = tuple(layer for layer in self._layers if layer.looped)
        held_TD = np.zeros_like(x_TD)
        for number in range(rounds):
            mixed_TD = mix_rounds(held_TD, fed_TD, decay_D, ONLY, number)
            before_TD, last_TD = self._round(mixed_TD, looped, state, number)
            thresholds_T = np.array([threshold], dtype=np.float32)
            held_TD, stays, taken = keep_rounds(held_TD, before_TD, last_TD, ONLY, number, thresholds_T)
            self.rounds_taken = int(taken[0])
            if not stays[0]:
                break
        return (
            scale_rows(held_TD, matrices["C"]) if matrices["C"].ndim == 1 else dense(held_TD, matrices["C"])
        )

    def _round(
        self, x_TD: Floats, looped: tuple[Layer, ...], state: ReferenceState, number: int
    ) -> tuple[Floats, Floats]:
        """The looped layers, but for the last sum."""
        x_TD = self._through(x_TD, looped[:-1], state, number)
        last = looped[-1]
        x_TD = _sum(x_TD, mixer(self._weights, last, x_TD, state.layers[last.index][number]))
        return x_TD, self._feed_forward(last, x_TD)

    def _layer_state(self, layer: Layer) -> LayerState:
        fields = FIELDS[layer.kind](self.config, layer, self._weights.tensors)
        return {each.name: _begin(each) for each in fields}


def _begin(field: StateField) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    array = np.zeros(field.shape, dtype=field.dtype)
    if field.initial is not None:
        array[...] = field.initial
    return array


def _sum(x_TD: Floats, y_TD: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return canonical(x_TD + y_TD)
