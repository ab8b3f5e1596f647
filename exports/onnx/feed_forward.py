"""Feed-forward parts: SwiGLU, or a shared expert and the chosen ones.

An expert stands in a branch of its own, which runs where a token chose it, on the tokens that did.
"""

from collections.abc import Mapping

import numpy as np

from configs.inventory import Layer
from exports.onnx.functions import log_sigmoid, rms_norm, silu
from exports.onnx.graph import FLOAT, Graph
from exports.onnx.weights import Weights


def feed_forward(graph: Graph, weights: Weights, layer: Layer, x: str, *, behind: Mapping[int, str]) -> str:
    """What the layer's feed-forward part adds to the residual stream.

    `behind` are the residual streams behind earlier layers, which may decide for this one.
    """
    prefix, config = f"layers.{layer.index}.ffn.", weights.config
    normed = rms_norm(graph, x, weights.floats(graph, f"{prefix}norm.weight"), eps=config.rms_norm_eps)
    if not layer.experts:
        return _swiglu(
            graph, weights, prefix, normed, inner=config.intermediate_size, gain="down_norm.weight"
        )
    moe, D = config.backbone.moe, config.hidden_size
    rows = graph.op("Reshape", normed, graph.constant([-1, D]))
    deciding = rows
    if layer.decided_behind is not None:
        plain = graph.constant(np.ones(D, dtype=np.float32))
        source = rms_norm(graph, behind[layer.decided_behind], plain, eps=config.rms_norm_eps)
        deciding = graph.op("Reshape", source, graph.constant([-1, D]))
    shares = _shares(graph, weights, prefix, deciding)
    width = moe.n_shared_experts * moe.moe_intermediate_size
    total = _swiglu(graph, weights, f"{prefix}shared.", rows, inner=width, gain="down_norm")
    E = moe.n_routed_experts
    wanted = graph.op("ReduceMax", shares, graph.constant([0]), attributes={"keepdims": 0})
    is_wanted = graph.split(graph.op("Greater", wanted, graph.constant(0.0)), [1] * E, axis=0)
    columns = graph.split(shares, [1] * E, axis=1)
    for expert, (wants, column) in enumerate(zip(is_wanted, columns, strict=True)):
        chosen = _expert(graph, weights, f"{prefix}experts.{expert}.", rows, column, total)
        others = graph.branch()
        others.output(others.op("Identity", total), FLOAT, None)
        branches = {"then_branch": chosen.proto(f"expert_{expert}"), "else_branch": others.proto("unchosen")}
        total = graph.op("If", wants, attributes=branches)
    return graph.op("Reshape", total, graph.op("Shape", normed))


def _shares(graph: Graph, weights: Weights, prefix: str, rows: str) -> str:
    """What each expert's result is worth for each token, [tokens, experts]: 0 where it was not chosen."""
    moe = weights.config.backbone.moe
    logits = weights.dense(graph, rows, f"{prefix}router")
    if moe.routing == "softmax":
        log_scores = graph.op("LogSoftmax", logits, attributes={"axis": -1})
    else:
        log_scores = log_sigmoid(graph, logits)
    biased = graph.op("Add", graph.op("Exp", log_scores), weights.floats(graph, f"{prefix}router_bias"))
    _, chosen = graph.ops("TopK", biased, graph.constant([moe.num_experts_per_tok]), num_outputs=2)
    of_chosen = graph.op("GatherElements", log_scores, chosen, attributes={"axis": 1})
    shares = graph.op("Softmax", of_chosen, attributes={"axis": -1})
    nothing = graph.op("Mul", logits, graph.constant(0.0))
    return graph.op("ScatterElements", nothing, chosen, shares, attributes={"axis": 1})


def _expert(graph: Graph, weights: Weights, prefix: str, rows: str, column: str, total: str) -> Graph:
    """The branch that adds an expert's results to those of the tokens that chose it."""
    inside = graph.branch()
    tokens = inside.slice(inside.op("NonZero", column), 0, 1, axis=0)
    tokens = inside.reshape(tokens, -1)
    x = inside.op("Gather", rows, tokens)
    y = _swiglu(
        inside, weights, prefix, x, inner=weights.config.backbone.moe.moe_intermediate_size, gain="down_norm"
    )
    weighed = inside.op("Mul", y, inside.op("Gather", column, tokens))
    index = inside.unsqueeze(tokens, 1)
    inside.output(inside.op("ScatterND", total, index, weighed, attributes={"reduction": "add"}), FLOAT, None)
    return inside


def _swiglu(graph: Graph, weights: Weights, prefix: str, x: str, *, inner: int, gain: str) -> str:
    both = weights.ternary(graph, x, f"{prefix}gate_proj.weight", f"{prefix}up_proj.weight")
    gate, up = graph.split(both, [inner, inner], axis=-1)
    values = graph.op("Mul", silu(graph, gate), up)
    normed = rms_norm(graph, values, weights.floats(graph, prefix + gain), eps=weights.config.rms_norm_eps)
    return weights.ternary(graph, normed, f"{prefix}down_proj.weight")
