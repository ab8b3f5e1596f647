"""A whole model as a graph: embedding, layers with the loop unrolled, the last token's logits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from configs.errors import UsageError
from configs.schema.backbone import LayerKind
from configs.schema.model import ModelConfig
from exports.onnx.data import DataFile
from exports.onnx.delta import gated_delta
from exports.onnx.feed_forward import feed_forward
from exports.onnx.functions import rms_norm
from exports.onnx.graph import FLOAT, INT8, INT64, Graph, model_proto
from exports.onnx.mixer import Mixer
from exports.onnx.mlstm import mlstm
from exports.onnx.states import POSITION, Dtype, StatePlan, Visit, state_plan
from exports.onnx.titans import titans
from exports.onnx.weights import Profile, Weights
from quant.kernels.rounds.reference import decay_and_gain
from runtime.building.tensors import Tensors

IDS, LOGITS = "input_ids", "logits"
DTYPES: Mapping[Dtype, int] = {"float32": FLOAT, "int8": INT8, "int64": INT64}
MIXERS: Mapping[LayerKind, Callable[[Mixer, str], str]] = {
    "gated_deltanet": gated_delta,
    "tsp_span_knot": gated_delta,
    "xlstm_m": mlstm,
    "titans_mac": titans,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltModel:
    """A graph, what it carries, and the large constants that are yet to be written."""

    proto: onnx.ModelProto
    states: StatePlan
    data: DataFile


def build_model(
    config: ModelConfig, tensors: Tensors, *, profile: Profile, rounds: int, metadata: Mapping[str, str]
) -> BuiltModel:
    """The graph of a model whose loop runs so many rounds."""
    data = DataFile()
    graph, weights = Graph(data), Weights(config=config, tensors=tensors, profile=profile)
    states = state_plan(config, rounds=rounds)
    ids = graph.input(IDS, INT64, ["batch", "tokens"])
    for state in states.tensors:
        graph.input(state.past, DTYPES[state.dtype], ["batch", *state.shape])
    x = _Layers(graph=graph, weights=weights, states=states).run(weights.embedded(graph, ids))
    last = graph.slice(x, -1, 2**31, axis=1)
    gain = weights.floats(graph, "final_norm.weight")
    logits = weights.rows(graph, rms_norm(graph, last, gain, eps=config.rms_norm_eps), "embedding.weight")
    graph.op("Identity", logits, to=LOGITS)
    graph.output(LOGITS, FLOAT, ["batch", 1, config.vocab_size])
    if states.position is not None:
        graph.op("Add", POSITION, graph.size(ids, 1), to=states.position.present)
    for state in states.tensors:
        graph.output(state.present, DTYPES[state.dtype], ["batch", *state.shape])
    return BuiltModel(proto=model_proto(graph.proto("chimera"), metadata=metadata), states=states, data=data)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layers:
    graph: Graph
    weights: Weights
    states: StatePlan
    behind: dict[int, str] = field(default_factory=dict[int, str])
    """The residual stream behind each layer; that behind the loop stands for its last layer's."""

    def run(self, x: str) -> str:
        looping = self.weights.config.looping
        if not looping.enabled:
            return self._through(x, self.states.visits)
        first, last = looping.loop
        visits = self.states.visits
        x = self._through(x, [visit for visit in visits if visit.layer.index < first])
        x = self._looped(x, [visit for visit in visits if visit.layer.looped])
        self.behind[last] = x
        return self._through(x, [visit for visit in visits if visit.layer.index > last])

    def _through(self, x: str, visits: Sequence[Visit]) -> str:
        for visit in visits:
            x = self.graph.op("Add", x, self._mixed(x, visit))
            y = feed_forward(self.graph, self.weights, visit.layer, x, behind=self.behind)
            x = self.behind[visit.layer.index] = self.graph.op("Add", x, y)
        return x

    def _mixed(self, x: str, visit: Visit) -> str:
        """What a layer's mixer adds to the residual stream."""
        graph, position = self.graph, POSITION if self.states.position is not None else ""
        mixer = Mixer(graph=graph, weights=self.weights, visit=visit, position=position)
        y = MIXERS[visit.layer.kind](mixer, mixer.norm(x, "norm.weight"))
        return self.weights.ternary(graph, mixer.norm(y, "out_norm.weight"), mixer.named("o_proj.weight"))

    def _looped(self, x: str, visits: Sequence[Visit]) -> str:
        """Rounds: x ← decay · x + gain · B · norm(what entered), then the layers; C behind the last."""
        graph, weights = self.graph, self.weights
        config = weights.config
        decay, gain = decay_and_gain(
            weights.tensors.floats("loop.A_log"),
            weights.tensors.floats("loop.dt_bias"),
            exact=config.looping.zoh_input == "exact",
        )
        normed = rms_norm(
            graph, x, weights.floats(graph, "loop.prelude_norm.weight"), eps=config.rms_norm_eps
        )
        fed = graph.op("Mul", self._matrix(normed, "loop.B"), graph.constant(gain, stem="loop.gain"))
        held = ""
        for number in range(visits[-1].round + 1):
            kept = held and graph.op("Mul", held, graph.constant(decay, stem="loop.decay"))
            mixed = graph.op("Add", kept, fed) if kept else fed
            held = self._through(mixed, [visit for visit in visits if visit.round == number])
        return self._matrix(held, "loop.C")

    def _matrix(self, x: str, name: str) -> str:
        """A diagonal, or a whole matrix."""
        if self.weights.tensors.floats(name).ndim == 1:
            return self.graph.op("Mul", x, self.weights.floats(self.graph, name))
        return self.weights.dense(self.graph, x, name)


def checked_rounds(config: ModelConfig, rounds: int | None) -> int:
    """Rounds of the loop, the config's where none are asked for."""
    if rounds is None:
        return config.rounds_default
    if not 1 <= rounds <= config.rounds_most:
        raise UsageError(
            f"{rounds} rounds of the loop; this model allows 1 to {config.rounds_most}",
            hint="Leave it out for the model's own choice." if config.looping.enabled else "It has no loop.",
        )
    return rounds
