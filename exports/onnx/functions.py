"""What a layer is made of. Where onnxruntime's own functions lose digits, other forms stand here."""

import numpy as np

from exports.onnx.graph import Graph

LENGTH_EPS = 1e-6
"""Added to the square of a length, so that nothing is divided by zero."""


def rms_norm(graph: Graph, x: str, gain: str, *, eps: float) -> str:
    return graph.op("RMSNormalization", x, gain, attributes={"axis": -1, "epsilon": eps})


def unit(graph: Graph, x: str, *, size: int, length: float = 1.0) -> str:
    """The last axis, of this size, scaled to a length: x / √(Σ x² + ε) is a norm with another gain and ε."""
    gain = np.full(size, length / size**0.5, dtype=np.float32)
    return rms_norm(graph, x, graph.constant(gain), eps=LENGTH_EPS / size)


def silu(graph: Graph, x: str) -> str:
    return graph.op(".QuickGelu", x, attributes={"alpha": 1.0})


def softplus(graph: Graph, x: str) -> str:
    """log(1 + e^x) as max(x, 0) + 2·atanh(u / (2 + u)) with u = e^−|x|.

    `Softplus` rounds 1 + e^x first, and what is left of e^−10 has three digits. A decay gate sums such
    numbers over thousands of tokens.
    """
    u = graph.op("Exp", graph.op("Neg", graph.op("Abs", x)))
    ratio = graph.op("Div", u, graph.op("Add", u, graph.constant(2.0)))
    rest = graph.op("Mul", graph.op("Atanh", ratio), graph.constant(2.0))
    return graph.op("Add", graph.op("Relu", x), rest)


def log_sigmoid(graph: Graph, x: str) -> str:
    return graph.op("Neg", softplus(graph, graph.op("Neg", x)))


def mean_decay(graph: Graph, x: str) -> str:
    """(1 − e^−x) / x for x from 0 up, as 2t / ((1 + t) x) with t = tanh(x/2), which is 1 at 0."""
    above = graph.op("Max", x, graph.constant(1e-20))
    return graph.op("Div", fading(graph, above), above)


def fading(graph: Graph, x: str) -> str:
    """1 − e^−x for x from 0 up."""
    t = graph.op("Tanh", graph.op("Mul", x, graph.constant(0.5)))
    return graph.op("Div", graph.op("Add", t, t), graph.op("Add", t, graph.constant(1.0)))


def heads(graph: Graph, x: str, *, head_dim: int) -> str:
    """[B, T, H·K] → [B, T, H, K]"""
    return graph.reshape(x, 0, 0, -1, head_dim)


def joined(graph: Graph, x: str) -> str:
    """[B, T, H, K] → [B, T, H·K]"""
    return graph.reshape(x, 0, 0, -1)
