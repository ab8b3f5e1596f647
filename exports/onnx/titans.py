"""Titans: a memory that learns while it reads, beside a window. `quant.kernels.titans` has the equations.

What no token's past decides (units, turns, codes, gates) is computed for all tokens at once; the rest is a
scan over tokens. States hold both memories as [B, H, K, K], inputs first. At a chunk's border the running
weights become those that are read.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from exports.onnx.functions import heads, joined, log_sigmoid, rms_norm, unit
from exports.onnx.graph import DOUBLE, FLOAT, INT8, INT64, Graph
from exports.onnx.mixer import Mixer
from quant.activations import MAX_CODE, SMALLEST_MAXIMUM
from quant.kernels.titans.reference import LARGEST_RATE, UNIT_EPS
from quant.kernels.titans.rotation import rotation_steps

RADIANS_A_UNIT = 2 * np.pi / 2.0**64
HIDDEN = -3e38
"""The score of what is not to be seen."""

CARRIED = (
    "border_1", "border_2", "running_1", "running_2", "momentum_1", "momentum_2",
    "answers", "answer_scales", "keys", "key_scales", "values", "value_scales",
)  # fmt: skip
"""States of the scan, in order."""
BROUGHT = (
    "q", "k", "v", "gained_q", "turned_q", "slot_scores", "key_codes", "key_scale", "value_codes",
    "value_scale", "log_pushed", "kept", "rate", "place", "answer_index", "ring_index", "position",
)  # fmt: skip
"""What each token brings, in order."""


def titans(mixer: Mixer, normed: str) -> str:
    """[B, T, D] → [B, T, H·K]"""
    graph, config = mixer.graph, mixer.config
    P = config.inner_width
    convolved = mixer.convolved_qkv(
        mixer.weights.ternary(graph, normed, *(mixer.named(f"{name}_proj.weight") for name in "qkv")),
        taps=config.titans.conv_size,
    )
    brought = _brought(mixer, normed, *graph.split(convolved, [P, P, P], axis=2))
    states = _begun(mixer)
    is_one = graph.op("Equal", graph.size(normed, 1), graph.constant([1]))
    *_, y = graph.ops(
        "If",
        is_one,
        attributes={
            "then_branch": _one_token(mixer, states, brought),
            "else_branch": _many_tokens(mixer, states, brought),
        },
        outputs=(*(mixer.state(name).present for name in CARRIED), graph.name("y")),
    )
    return joined(graph, y)


def _one_token(mixer: Mixer, states: dict[str, str], brought: dict[str, str]) -> onnx.GraphProto:
    """The step alone: a scan copies what it carries on its way in and out."""
    graph = mixer.graph.branch()
    token = {name: graph.squeeze(brought[name], 1) for name in BROUGHT}
    new, y = _step(mixer, graph, states, token)
    for name in CARRIED:
        graph.output(new[name], _dtype(name), None)
    graph.output(graph.unsqueeze(y, 1), FLOAT, None)
    return graph.proto("one_token")


def _many_tokens(mixer: Mixer, states: dict[str, str], brought: dict[str, str]) -> onnx.GraphProto:
    graph = mixer.graph.branch()
    body = graph.branch()
    held = {name: body.input(body.name(name), _dtype(name), None) for name in CARRIED}
    token = {name: body.input(body.name(name), _dtype(name), None) for name in BROUGHT}
    new, y = _step(mixer, body, held, token)
    for name in CARRIED:
        body.output(new[name], _dtype(name), None)
    body.output(y, FLOAT, None)
    outputs = graph.ops(
        "Scan",
        *(states[name] for name in CARRIED),
        *(brought[name] for name in BROUGHT),
        attributes={
            "body": body.proto("token"),
            "num_scan_inputs": len(BROUGHT),
            "scan_input_axes": [1] * len(BROUGHT),
            "scan_output_axes": [1],
        },
        num_outputs=len(CARRIED) + 1,
    )
    for name, output in zip((*CARRIED, "y"), outputs, strict=True):
        graph.output(output, _dtype(name), None)
    return graph.proto("many_tokens")


def _dtype(name: str) -> int:
    """Of a state, or of what a token brings."""
    if name in ("keys", "values", "key_codes", "value_codes"):
        return INT8
    return INT64 if name in ("place", "position", "answer_index", "ring_index") else FLOAT


def _begun(mixer: Mixer) -> dict[str, str]:
    """The states before the first token of the call: a text begins with the learned memory."""
    graph = mixer.graph
    is_first = graph.op("Equal", mixer.position, graph.constant(0))
    is_first = graph.unsqueeze(is_first, 1, 2, 3)
    states = {name: mixer.state(name).past for name in CARRIED}
    for number in (1, 2):
        learned = np.ascontiguousarray(mixer.array(f"memory_w{number}").swapaxes(1, 2))
        name = f"running_{number}"
        states[name] = graph.op(
            "Where", is_first, graph.constant(learned, stem=mixer.named(f"memory_w{number}")), states[name]
        )
    return states


def _brought(mixer: Mixer, normed: str, q: str, k: str, v: str) -> dict[str, str]:
    graph, config = mixer.graph, mixer.config
    K, H, W, C = (
        config.head_dim,
        config.num_heads,
        config.titans.local_window_size,
        config.titans.memory_chunk,
    )
    q, k = (unit(graph, heads(graph, x, head_dim=K), size=K) for x in (q, k))
    v = heads(graph, v, head_dim=K)
    root = graph.constant(float(np.sqrt(np.float32(K))))
    scaled_q = graph.op("Mul", q, graph.unsqueeze(mixer.floats("attn_scale"), 1))
    gain = mixer.weights.floats(graph, mixer.named("memory_key_gain"), made=lambda x: x.reshape(H, K))

    count = graph.squeeze(graph.size(q, 1), 0)
    steps = graph.op("Range", graph.constant(np.array(0)), count, graph.constant(np.array(1)))
    positions = graph.op("Add", graph.unsqueeze(mixer.position, 1), steps)  # [B, T]
    place, slot = (graph.op("Mod", positions, graph.constant(size)) for size in (C, W))
    sines, cosines = _turns(graph, positions, head_dim=K, theta=config.titans.rope_theta)
    key_codes, key_scale = _codes(graph, _turned(graph, k, sines, cosines))
    value_codes, value_scale = _codes(graph, v)
    eta, theta, alpha = mixer.gates(normed, "eta", "theta", "alpha")
    eta, theta, alpha = (
        graph.op("Add", gate, mixer.floats(f"{name}_bias"))
        for gate, name in ((eta, "eta"), (theta, "theta"), (alpha, "alpha"))
    )
    return {
        "q": graph.op("Mul", q, root),
        "k": graph.op("Mul", k, root),
        "v": v,
        "gained_q": graph.op("Mul", scaled_q, gain),
        "turned_q": _turned(graph, scaled_q, sines, cosines),
        "slot_scores": _slot_scores(mixer, scaled_q),
        "key_codes": key_codes,
        "key_scale": key_scale,
        "value_codes": value_codes,
        "value_scale": value_scale,
        "log_pushed": log_sigmoid(graph, eta),
        "kept": graph.op("Sigmoid", graph.op("Neg", alpha)),
        "rate": graph.op("Mul", graph.op("Sigmoid", theta), graph.constant(float(LARGEST_RATE))),
        "place": place,
        "answer_index": _index(graph, place, num_heads=H),
        "ring_index": _index(graph, slot, num_heads=H),
        "position": positions,
    }


def _turns(graph: Graph, positions: str, *, head_dim: int, theta: float) -> tuple[str, str]:
    """Sines and cosines [B, T, 1, K/2] of position × step; 64 bits are a turn, so whole turns fall out."""
    steps = graph.constant(rotation_steps(head_dim=head_dim, theta=theta))
    phase = graph.cast(graph.op("Mul", graph.unsqueeze(positions, 2, 3), steps), DOUBLE)
    angle = graph.cast(graph.op("Mul", phase, graph.constant(np.array(RADIANS_A_UNIT))), FLOAT)
    return graph.op("Sin", angle), graph.op("Cos", angle)


def _turned(graph: Graph, x: str, sines: str, cosines: str) -> str:
    """Both halves of the head's channels turned against each other."""
    first, second = graph.ops("Split", x, attributes={"axis": -1, "num_outputs": 2}, num_outputs=2)
    return graph.concat(
        graph.op("Sub", graph.op("Mul", first, cosines), graph.op("Mul", second, sines)),
        graph.op("Add", graph.op("Mul", second, cosines), graph.op("Mul", first, sines)),
        axis=-1,
    )


def _codes(graph: Graph, x: str) -> tuple[str, str]:
    """int8 codes [B, T, H, K], and their scales [B, T, H]."""
    largest = graph.op("ReduceMax", graph.op("Abs", x), graph.constant([-1]))
    largest = graph.op("Max", largest, graph.constant(float(SMALLEST_MAXIMUM)))
    most = graph.constant(float(MAX_CODE))
    codes = graph.op("Round", graph.op("Mul", x, graph.op("Div", most, largest)))
    return graph.cast(codes, INT8), graph.squeeze(graph.op("Div", largest, most), -1)


def _slot_scores(mixer: Mixer, scaled_q: str) -> str:
    """[B, T, H, P]"""
    graph, config = mixer.graph, mixer.config
    num_slots, H, K = config.titans.persistent_memory_slots, config.num_heads, config.head_dim
    if not num_slots:
        return graph.slice(scaled_q, 0, 0, axis=3)
    keys = mixer.weights.floats(
        graph, mixer.named("slot_keys"), made=lambda x: x.reshape(num_slots, H, K).transpose(1, 2, 0)
    )
    return graph.transpose(graph.op("MatMul", graph.transpose(scaled_q, 0, 2, 1, 3), keys), 0, 2, 1, 3)


def _index(graph: Graph, place: str, *, num_heads: int) -> str:
    """Where the states of [B, H, places] take a token's row: [B, T, H, 3] of batch, head and place."""
    batch = graph.op(
        "Range",
        *(graph.constant(np.array(0)), graph.squeeze(graph.size(place, 0), 0), graph.constant(np.array(1))),
    )
    of_head = graph.constant(np.arange(num_heads).reshape(1, 1, num_heads, 1))
    places = graph.unsqueeze(place, 2, 3)  # [B, T, 1, 1]
    zeros = graph.op("Mul", graph.op("Add", places, of_head), graph.constant(0))
    parts = graph.unsqueeze(batch, 1, 2, 3), of_head, places
    return graph.concat(*(graph.op("Add", part, zeros) for part in parts), axis=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hidden:
    """The memory's hidden layer."""

    preact: str
    gate: str
    value: str


def _step(
    mixer: Mixer, graph: Graph, states: dict[str, str], token: dict[str, str]
) -> tuple[dict[str, str], str]:
    """One token: new states, and y [B, H, K]."""
    config = mixer.config
    is_border = graph.unsqueeze(graph.op("Equal", token["place"], graph.constant(0)), 1, 2, 3)
    border = [
        graph.op("Where", is_border, states[f"running_{number}"], states[f"border_{number}"])
        for number in (1, 2)
    ]
    both = graph.concat(*(graph.unsqueeze(token[name], 2) for name in "qk"), axis=2)  # [B, H, 2, K]
    hidden = _hidden(graph, border[0], both)
    read = graph.op("Add", both, graph.op("MatMul", hidden.value, border[1]))
    answer, recalled = graph.split(read, [1, 1], axis=2)

    new = {"border_1": border[0], "border_2": border[1]}
    new |= _remembered(graph, states, token, graph.squeeze(answer, 2))
    y = _attended(mixer, graph, new, token)
    unit_y = unit(graph, y, size=config.head_dim, length=config.head_dim**0.5)
    z = graph.op("Add", unit_y, graph.op("MatMul", _hidden(graph, border[0], unit_y).value, border[1]))
    gate = rms_norm(graph, z, mixer.floats("gate_norm.weight"), eps=config.rms_norm_eps)
    out = graph.op("Mul", y, graph.op("Sigmoid", gate))
    new |= _learned(mixer, graph, states, token, border[1], hidden, recalled)
    return new, graph.squeeze(out, 2)


def _hidden(graph: Graph, weights: str, x: str) -> _Hidden:
    preact = graph.op("MatMul", x, weights)
    gate = graph.op("Sigmoid", preact)
    return _Hidden(preact=preact, gate=gate, value=graph.op("Mul", preact, gate))


def _remembered(graph: Graph, states: dict[str, str], token: dict[str, str], answer: str) -> dict[str, str]:
    """The answer in its place of the chunk, key and value in theirs of the ring."""
    squares = graph.op("ReduceSumSquare", answer, graph.constant([-1]), attributes={"keepdims": 0})
    length = graph.op("Sqrt", graph.op("Add", squares, graph.constant(float(UNIT_EPS))))
    rows = {
        "answers": ("answer_index", answer),
        "answer_scales": ("answer_index", graph.op("Reciprocal", length)),
        "keys": ("ring_index", token["key_codes"]),
        "key_scales": ("ring_index", token["key_scale"]),
        "values": ("ring_index", token["value_codes"]),
        "value_scales": ("ring_index", token["value_scale"]),
    }
    return {
        name: graph.op("ScatterND", states[name], token[index], row) for name, (index, row) in rows.items()
    }


def _attended(mixer: Mixer, graph: Graph, held: dict[str, str], token: dict[str, str]) -> str:
    """The weighted mean of slots, answers and window, [B, H, 1, K]."""
    config = mixer.config
    H, K = config.num_heads, config.head_dim
    P, W, C = (
        config.titans.persistent_memory_slots, config.titans.local_window_size, config.titans.memory_chunk,
    )  # fmt: skip

    def scores(q: str, keys: str, scales: str, newest: str, *, size: int) -> str:
        found = graph.op(".FusedMatMul", graph.unsqueeze(token[q], 2), keys, attributes={"transB": 1})
        scaled = graph.op("Mul", found, graph.unsqueeze(held[scales], 2))
        places = graph.constant(np.arange(size))
        is_seen = graph.op("LessOrEqual", places, graph.unsqueeze(token[newest], 1))  # [B, places]
        return graph.op("Where", graph.unsqueeze(is_seen, 1, 2), scaled, graph.constant(HIDDEN))

    keys, values = (graph.cast(held[name], FLOAT) for name in ("keys", "values"))
    seen = graph.concat(
        graph.unsqueeze(token["slot_scores"], 2),
        scores("gained_q", held["answers"], "answer_scales", "place", size=C),
        scores("turned_q", keys, "key_scales", "position", size=W),
        axis=3,
    )
    shares = graph.op("Softmax", seen, attributes={"axis": -1})
    of_slots, of_answers, of_window = graph.split(shares, [P, C, W], axis=3)
    weighed = graph.op("Mul", of_window, graph.unsqueeze(held["value_scales"], 2))
    y = graph.op(
        "Add",
        graph.op("MatMul", of_answers, held["answers"]),
        graph.op("MatMul", weighed, values),
    )
    if not P:
        return y
    slot_values = mixer.weights.floats(
        graph, mixer.named("slot_values"), made=lambda x: x.reshape(P, H, K).transpose(1, 0, 2)
    )
    return graph.op("Add", y, graph.op("MatMul", of_slots, slot_values))


def _learned(
    mixer: Mixer,
    graph: Graph,
    states: dict[str, str],
    token: dict[str, str],
    border_2: str,
    hidden: _Hidden,
    recalled: str,
) -> dict[str, str]:
    """Learn k → v: momentum and running weights."""
    gate, value, preact = (
        graph.slice(x, 1, 2, axis=2) for x in (hidden.gate, hidden.value, hidden.preact)
    )  # [B, H, 1, K]
    k, v = (graph.unsqueeze(token[name], 2) for name in ("k", "v"))
    error = graph.op("Sub", recalled, v)
    back = graph.op(".FusedMatMul", error, border_2, attributes={"transB": 1})
    slope = graph.op("Sub", graph.op("Add", preact, graph.constant(1.0)), value)
    back = graph.op("Mul", back, graph.op("Mul", gate, slope))

    def squares(x: str) -> str:
        return graph.op("ReduceSumSquare", x, graph.constant([-1]))  # [B, H, 1, 1]

    squared_norm = graph.op(
        "Add",
        graph.op("Mul", squares(error), squares(value)),
        graph.op("Mul", squares(back), squares(k)),
    )
    bound = graph.op("Sqrt", graph.op("Max", squared_norm, graph.constant(1.0)))
    rate = graph.op("Div", graph.unsqueeze(token["rate"], 2, 3), bound)
    less = graph.op("Neg", rate)
    decay, kept = graph.unsqueeze(token["log_pushed"], 1), graph.unsqueeze(token["kept"], 2, 3)
    new: dict[str, str] = {}
    for number, right, left in ((1, k, back), (2, value, error)):
        momentum = _pushed(
            graph,
            states[f"momentum_{number}"],
            decay,
            graph.op("Mul", right, less),
            left,
            num_heads=mixer.config.num_heads,
        )
        kept_weights = graph.op("Mul", states[f"running_{number}"], kept)
        new |= {f"momentum_{number}": momentum, f"running_{number}": graph.op("Add", kept_weights, momentum)}
    return new


def _pushed(graph: Graph, momentum: str, log_decay: str, right: str, left: str, *, num_heads: int) -> str:
    """e^decay · momentum + right ⊗ left: a step of a linear attention, which passes over the memory once."""
    rights, lefts = (graph.reshape(x, 0, 1, -1) for x in (right, left))
    _, pushed = graph.ops(
        ".LinearAttention", rights, rights, lefts, momentum, log_decay,
        attributes={
            "update_rule": "gated", "q_num_heads": num_heads, "kv_num_heads": num_heads, "scale": 1.0,
        },
        num_outputs=2,
    )  # fmt: skip
    return pushed
