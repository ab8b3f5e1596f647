"""Mixers on one token. A state is a dict of arrays, named as in a stream's memory, and is written anew."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from numpy.typing import NDArray

from configs.inventory import Layer
from configs.schema.backbone import LayerKind
from quant.kernels.convolution.reference import short_convolution
from quant.kernels.delta.reference import DeltaTokens, DeltaWeights, decay_rates, exact_flow, gated_delta
from quant.kernels.dense.reference import dense
from quant.kernels.elementary.reference import rotation_angles
from quant.kernels.mlstm.reference import MLSTMState, MLSTMTokens, MLSTMWeights, mlstm
from quant.kernels.norm.reference import Quantized, quantize_blocks, rms_norm_quantize
from quant.kernels.residual.reference import norm_both
from quant.kernels.titans.reference import TitansTokens, titans
from quant.kernels.titans.rotation import rotation_steps
from quant.kernels.titans.shapes import TitansState
from runtime.building.states import padded_width, titans_shape, titans_weights
from runtime.reference.weights import Floats, ReferenceWeights

LayerState: TypeAlias = dict[str, NDArray[Any]]


def mixer(weights: ReferenceWeights, layer: Layer, x_TD: Floats, state: LayerState) -> Floats:
    """What the layer's mixer adds to the residual stream."""
    head = _Head(weights, layer, x_TD)
    y_TP = MIXERS[layer.kind](head, state)
    acts = rms_norm_quantize(y_TP, head.floats("out_norm.weight"), weights.eps)
    return head.product("o_proj", acts)


class _Head:
    """A mixer's input and tensors."""

    def __init__(self, weights: ReferenceWeights, layer: Layer, x_TD: Floats) -> None:
        self.weights, self.layer, self.config = weights, layer, weights.config
        self.normed_TD, codes, scales, sums = norm_both(x_TD, self.floats("norm.weight"), weights.eps)
        self.acts: Quantized = (codes, scales, sums)

    def floats(self, name: str) -> Floats:
        return self.weights.floats(f"layers.{self.layer.index}.mixer.{name}")

    def product(self, name: str, acts: Quantized) -> Floats:
        width = self.config.inner_width if name == "o_proj" else self.config.hidden_size
        return self.weights.product(f"layers.{self.layer.index}.mixer.{name}.weight", acts, width=width)

    def gate(self, name: str) -> Floats:
        """One number a head."""
        return dense(self.normed_TD, self.floats(f"{name}_proj.weight"))

    def output_gate(self, is_used: bool) -> Floats | None:
        return self.product("gate_proj", self.acts) if is_used else None

    def convolved(self, state: LayerState) -> tuple[Floats, Floats, Floats]:
        """Queries, keys and values behind their convolutions. Their tails lie side by side, padded."""
        wide, inner = padded_width(self.config), self.config.inner_width
        tail = state["tail"].copy()

        def one(part: int, name: str) -> Floats:
            columns = slice(part * wide, part * wide + inner)
            y_TP, tail[:, columns] = short_convolution(
                self.product(f"{name}_proj", self.acts),
                self.floats(f"{name}_conv.weight").T,
                tail[:, columns],
            )
            return y_TP

        outputs = one(0, "q"), one(1, "k"), one(2, "v")
        state["tail"] = tail
        return outputs


def _gated_delta(head: _Head, state: LayerState) -> Floats:
    config = head.config
    is_exact = config.efla.enabled and head.layer.alias in config.efla.target_layers.split()
    q, k, v = head.convolved(state)
    tokens = DeltaTokens(
        q=q,
        k=k,
        v=v,
        alpha=head.gate("alpha"),
        beta=head.gate("beta"),
        gate=head.output_gate(config.gated_deltanet.use_output_gate),
    )
    learnt = DeltaWeights(
        rates=decay_rates(head.floats("A_log")),
        dt_bias=head.floats("dt_bias"),
        gain=head.floats("head_norm.weight"),
        eps=head.weights.eps,
    )
    y_TP, state["memory"] = (exact_flow if is_exact else gated_delta)(tokens, learnt, state["memory"])
    return y_TP


def _mlstm(head: _Head, state: LayerState) -> Floats:
    config = head.config
    convolved_TD, state["tail"] = short_convolution(
        head.normed_TD, head.floats("conv.weight").T, state["tail"]
    )
    acts = quantize_blocks(convolved_TD)
    tokens = MLSTMTokens(
        q=head.product("q_proj", acts),
        k=head.product("k_proj", acts),
        v=head.product("v_proj", head.acts),
        input_gate=head.gate("i"),
        forget_gate=head.gate("f"),
        gate=head.output_gate(config.xlstm.use_output_gate),
    )
    learnt = MLSTMWeights(
        input_bias=head.floats("i_bias"),
        forget_bias=head.floats("f_bias"),
        gain=head.floats("head_norm.weight"),
        eps=head.weights.eps,
        exponential_gating=config.xlstm.exponential_gating,
    )
    held = MLSTMState(memory=state["memory"], normaliser=state["normaliser"], log_scale=state["log_scale"])
    y_TP, state["memory"], state["normaliser"], state["log_scale"] = mlstm(tokens, learnt, held)
    return y_TP


def _titans(head: _Head, state: LayerState) -> Floats:
    config = head.config
    q, k, v = head.convolved(state)
    position = int(state["position"][0])
    turns = rotation_steps(head_dim=config.head_dim, theta=config.titans.rope_theta)
    sines, cosines = rotation_angles(position, turns, len(q))
    eta, theta, alpha = (head.gate(name) for name in ("eta", "theta", "alpha"))
    tokens = TitansTokens(q, k, v, eta, theta, alpha, sines, cosines)
    parameters = titans_weights(config, head.layer, head.weights.tensors)
    held = TitansState(*(state[name] for name in TitansState._fields))
    y_TP, _, *arrays = titans(titans_shape(config), parameters, tokens, held, position)
    state |= dict(zip(TitansState._fields, arrays, strict=True))
    state["position"] = state["position"] + len(q)
    return y_TP


MIXERS: Mapping[LayerKind, Callable[[_Head, LayerState], Floats]] = {
    "gated_deltanet": _gated_delta,
    "tsp_span_knot": _gated_delta,
    "xlstm_m": _mlstm,
    "titans_mac": _titans,
}
