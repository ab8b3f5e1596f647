"""Gated DeltaNet, its exact flow, and the span knot's recurrence: `quant.kernels.delta` has the equations."""

from exports.onnx.functions import fading, heads, joined, mean_decay, silu, softplus, unit
from exports.onnx.mixer import Mixer
from exports.onnx.states import RECURRENT
from quant.kernels.delta.reference import decay_rates

MOST_DECAY = 60.0
"""e^−60 stands for all that is smaller where a gate is divided by it."""


def gated_delta(mixer: Mixer, normed: str) -> str:
    """[B, T, D] → [B, T, H·K]"""
    graph, config = mixer.graph, mixer.config
    P, H, K = config.inner_width, config.num_heads, config.head_dim
    names = ("q", "k", "v", "gate") if config.gated_deltanet.use_output_gate else ("q", "k", "v")
    y = mixer.weights.ternary(graph, normed, *(mixer.named(f"{name}_proj.weight") for name in names))
    qkv, *gate = graph.split(y, [3 * P, P][: len(names) - 2], axis=2)
    convolved = mixer.convolved_qkv(qkv, taps=config.gated_deltanet.conv_size)
    a, b = mixer.gates(normed, "alpha", "beta")
    u = graph.op(
        "Mul",
        softplus(graph, graph.op("Add", a, mixer.floats("dt_bias"))),
        mixer.weights.floats(graph, mixer.named("A_log"), made=decay_rates),
    )
    beta = graph.op("Sigmoid", b)
    is_exact = config.efla.enabled and mixer.visit.layer.alias in config.efla.target_layers.split()
    if is_exact:
        q, k, v = graph.split(convolved, [P, P, P], axis=2)
        q = joined(graph, unit(graph, heads(graph, q, head_dim=K), size=K))
        u, beta, v = _exact_flow(mixer, u, beta, k, v)
    else:
        qk, v = graph.split(convolved, [2 * P, P], axis=2)
        q, k = graph.split(joined(graph, unit(graph, heads(graph, qk, head_dim=K), size=K)), [P, P], axis=2)
    state = mixer.state(RECURRENT)
    o, _ = graph.ops(
        ".LinearAttention", q, k, v, state.past, graph.op("Neg", u), beta,
        attributes={
            "update_rule": "gated_delta", "q_num_heads": H, "kv_num_heads": H, "scale": float(K**-0.5),
        },
        outputs=(graph.name("o"), state.present),
    )  # fmt: skip
    y = joined(graph, mixer.norm(heads(graph, o, head_dim=K), "head_norm.weight"))
    return graph.op("Mul", y, silu(graph, gate[0])) if gate else y


def _exact_flow(mixer: Mixer, u: str, beta: str, k: str, v: str) -> tuple[str, str, str]:
    """Decay, erase strength, and values: the rule has one strength for both, so values bear the ratio.

    erase = ρ·M(ρλ) and write = β·M(g + ρλ); v · write / erase is written with the strength erase.
    """
    graph, K = mixer.graph, mixer.config.head_dim
    lost = fading(graph, u)
    alpha = graph.op("Exp", graph.op("Neg", graph.op("Min", u, graph.constant(MOST_DECAY))))
    k_heads = heads(graph, k, head_dim=K)
    length = graph.op("ReduceSumSquare", k_heads, graph.constant([-1]), attributes={"keepdims": 0})
    strength = graph.op("Mul", graph.op("Mul", alpha, beta), length)
    erased = mean_decay(graph, strength)
    written = mean_decay(graph, graph.op("Add", lost, strength))
    ratio = graph.op("Div", written, graph.op("Mul", alpha, erased))
    v = joined(graph, graph.op("Mul", heads(graph, v, head_dim=K), graph.unsqueeze(ratio, -1)))
    return lost, graph.op("Mul", graph.op("Mul", alpha, beta), erased), v
