"""The matrix LSTM: `quant.kernels.mlstm` has the equations.

Memory and normaliser are two linear attentions with the gates forget and write. Between them and the gates
stands the log scale m' = max(f + m, i), which runs through the tokens: for one token it is one maximum, for
more a scan over numbers alone.
"""

import numpy as np

from exports.onnx.functions import heads, joined, log_sigmoid
from exports.onnx.graph import FLOAT, Graph
from exports.onnx.mixer import Mixer
from exports.onnx.states import CONV, RECURRENT
from quant.kernels.mlstm.reference import DENOMINATOR_FLOOR

NOTHING = -1e30
"""The log scale before a text; an infinity would meet itself in a difference."""


def mlstm(mixer: Mixer, normed: str) -> str:
    """[B, T, D] → [B, T, H·K]"""
    graph, config = mixer.graph, mixer.config
    H, K = config.num_heads, config.head_dim
    tail, normaliser, log_scale, begun = _split_state(mixer)
    new_tail = graph.name("tail")
    convolved = mixer.convolved(normed, "conv", past=tail, present=new_tail)
    q, k = mixer.projected(convolved, "q", "k")
    v, *gate = mixer.projected(normed, *(("v", "gate") if config.xlstm.use_output_gate else ("v",)))
    i, f = mixer.gates(normed, "i", "f")
    log_input = graph.op("Add", i, mixer.floats("i_bias"))
    if not config.xlstm.exponential_gating:
        log_input = log_sigmoid(graph, log_input)
    log_forget = log_sigmoid(graph, graph.op("Add", f, mixer.floats("f_bias")))

    before = graph.op(
        "Where", graph.op("Greater", begun, graph.constant(0.5)), log_scale, graph.constant(NOTHING)
    )
    after_all = _log_scales(graph, log_forget, log_input, before)  # [B, T, H]
    shifted = graph.slice(graph.concat(graph.unsqueeze(before, 1), after_all, axis=1), 0, -1, axis=1)
    decay = graph.op("Sub", graph.op("Add", log_forget, shifted), after_all)
    write = graph.op("Exp", graph.op("Sub", log_input, after_all))
    write = graph.op("Mul", write, graph.constant(float(K**-0.5)))
    written = joined(graph, graph.op("Mul", heads(graph, k, head_dim=K), graph.unsqueeze(write, -1)))

    attributes = {"update_rule": "gated", "q_num_heads": H, "kv_num_heads": H, "scale": 1.0}
    memory = mixer.state(RECURRENT)
    numerator, _ = graph.ops(
        ".LinearAttention", q, written, v, memory.past, decay,
        attributes=attributes, outputs=(graph.name("numerator"), memory.present),
    )  # fmt: skip
    ones = graph.op("Expand", graph.constant(np.ones((1, 1, 1), np.float32)), graph.op("Shape", decay))
    denominator, new_normaliser = graph.ops(
        ".LinearAttention", q, written, ones, normaliser, decay, attributes=attributes, num_outputs=2
    )
    least = graph.op("Exp", graph.op("Neg", after_all))
    bound = graph.op("Max", graph.op("Abs", denominator), least, graph.constant(DENOMINATOR_FLOOR))
    h = graph.op("Div", heads(graph, numerator, head_dim=K), graph.unsqueeze(bound, -1))
    ones_K = np.ones(K, dtype=np.float32)
    normed_h = graph.op(
        "RMSNormalization", h, graph.constant(ones_K), attributes={"axis": -1, "epsilon": config.rms_norm_eps}
    )
    y = graph.op("Mul", joined(graph, normed_h), mixer.floats("head_norm.weight"))
    last = graph.squeeze(graph.slice(after_all, -1, 2**31, axis=1), 1)
    _join_state(mixer, new_tail, new_normaliser, last)
    return graph.op("Mul", y, graph.op("Sigmoid", gate[0])) if gate else y


def _log_scales(graph: Graph, log_forget: str, log_input: str, before: str) -> str:
    """m' of every token, [B, T, H]."""
    one, many = graph.branch(), graph.branch()
    y = one.op("Max", one.op("Add", log_forget, one.unsqueeze(before, 1)), log_input)
    one.output(y, FLOAT, None)

    body = many.branch()
    held, forget, value = (body.input(body.name(stem), FLOAT, None) for stem in ("m", "f", "i"))
    after = body.op("Max", body.op("Add", forget, held), value)
    body.output(after, FLOAT, None)
    body.output(body.op("Identity", after), FLOAT, None)
    _, y = many.ops(
        "Scan", before, log_forget, log_input,
        attributes={
            "body": body.proto("log_scale"), "num_scan_inputs": 2,
            "scan_input_axes": [1, 1], "scan_output_axes": [1],
        },
        num_outputs=2,
    )  # fmt: skip
    many.output(y, FLOAT, None)
    is_one = graph.op("Equal", graph.size(log_forget, 1), graph.constant([1]))
    branches = {"then_branch": one.proto("one_token"), "else_branch": many.proto("many_tokens")}
    return graph.op("If", is_one, attributes=branches)


def _split_state(mixer: Mixer) -> tuple[str, str, str, str]:
    """The convolution's tail [B, D, taps − 1], normaliser [B, H, K, 1], log scale and begun [B, H]."""
    graph, config = mixer.graph, mixer.config
    D, H, K = config.hidden_size, config.num_heads, config.head_dim
    state = mixer.state(CONV)
    channels, columns = state.shape
    sizes = [D, H * K, H, H, channels - D - H * K - 2 * H]
    tail, *others = graph.split(state.past, sizes if sizes[-1] else sizes[:-1], axis=1)
    if columns > config.xlstm.conv_size - 1:
        tail = graph.slice(tail, 0, config.xlstm.conv_size - 1, axis=2)
    normaliser, log_scale, begun = (graph.slice(other, 0, 1, axis=2) for other in others[:3])
    shape = graph.constant([0, H, K, 1])
    return tail, graph.op("Reshape", normaliser, shape), graph.squeeze(log_scale, 2), graph.squeeze(begun, 2)


def _join_state(mixer: Mixer, tail: str, normaliser: str, log_scale: str) -> None:
    graph, config = mixer.graph, mixer.config
    state = mixer.state(CONV)
    channels, columns = state.shape
    used = config.hidden_size + config.num_heads * (config.head_dim + 2)
    begun = graph.op("Add", graph.op("Mul", log_scale, graph.constant(0.0)), graph.constant(1.0))
    numbers = graph.concat(
        graph.reshape(normaliser, 0, -1, 1),
        graph.unsqueeze(graph.concat(log_scale, begun, axis=1), 2),
        axis=1,
    )
    parts = _wider(graph, tail, columns - (config.xlstm.conv_size - 1)), _wider(graph, numbers, columns - 1)
    if channels == used:
        graph.concat(*parts, axis=1, to=state.present)
        return
    pads = graph.constant([0, 0, 0, 0, channels - used, 0])
    graph.op("Pad", graph.concat(*parts, axis=1), pads, to=state.present)


def _wider(graph: Graph, x: str, more: int) -> str:
    """More columns of zeros."""
    return graph.op("Pad", x, graph.constant([0, 0, 0, 0, 0, more])) if more else x
