"""Recurrences in float64, from the graph's projections: states stay beside them for hundreds of tokens."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from configs.schema.model import ModelConfig
from exports.onnx.export import export_onnx
from exports.onnx.graph import FLOAT
from exports.onnx.model import IDS
from exports.onnx.session import GraphSession
from exports.onnx.states import CONV, RECURRENT
from runtime.building.tensors import Tensors
from runtime.model_folder import open_model
from tests.exports.onnx.conftest import MakeModel

Doubles: TypeAlias = NDArray[np.float64]
NUM_TOKENS = 500
MOST = 1e-5


def told(folder: Path, wanted: dict[str, str]) -> dict[str, NDArray[Any]]:
    """What named values of a graph are after many tokens at once."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for name in wanted.values():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, FLOAT, None))
    path = folder / "told.onnx"
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path)
    ids = np.random.default_rng(0).integers(0, 500, (1, NUM_TOKENS))
    inputs = {**GraphSession(folder).begin(), IDS: ids}
    return dict(zip(wanted, session.run(list(wanted.values()), inputs), strict=True))


def nodes_of(folder: Path, kind: str) -> list[onnx.NodeProto]:
    """The nodes of a kind, in order."""
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    return [node for node in graph.node if node.op_type == kind]


def exported(model: Path, folder: Path) -> tuple[ModelConfig, Tensors]:
    export_onnx(model, folder, profile="reference")
    opened = open_model(model)
    return opened.config, Tensors(opened)


def softplus(x: Doubles) -> Doubles:
    return np.logaddexp(0, x)


def sigmoid(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


def by_head(x: NDArray[Any], config: ModelConfig) -> Doubles:
    return x[0].astype(np.float64).reshape(NUM_TOKENS, -1, config.head_dim)


def distance(found: NDArray[Any], right: Doubles) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def mean_decay(x: Doubles) -> Doubles:
    return -np.expm1(-x) / x


def delta_in_float64(folder: Path, config: ModelConfig, tensors: Tensors, *, exact: bool) -> None:
    convolved = nodes_of(folder, "CausalConvWithState")[0].output[0]
    after = next(node for node in nodes_of(folder, "Transpose") if node.input[0] == convolved).output[0]
    gates = nodes_of(folder, "MatMul")[0].output[0]
    found = told(folder, {"qkv": after, "gates": gates, "state": f"present.0.{RECURRENT}"})
    _, k, v = np.split(by_head(found["qkv"], config), 3, axis=1)
    a, b = np.split(found["gates"][0].astype(np.float64), 2, axis=1)
    floats = {
        name: tensors.floats(f"layers.0.mixer.{name}").astype(np.float64) for name in ("A_log", "dt_bias")
    }
    u = np.exp(floats["A_log"]) * softplus(a + floats["dt_bias"])
    beta = sigmoid(b)
    erase = write = beta
    decay = np.exp(-u)
    if exact:
        lost, rho = -np.expm1(-u), np.exp(-u) * beta
        strength = rho * (k**2).sum(axis=2)
        erase, write, decay = rho * mean_decay(strength), beta * mean_decay(lost + strength), np.exp(-lost)
    else:
        k = k / np.sqrt((k**2).sum(axis=2, keepdims=True) + 1e-6)
    memory = np.zeros((config.num_heads, config.head_dim, config.head_dim))
    for t in range(NUM_TOKENS):
        memory = memory * decay[t][:, None, None]
        recalled = np.einsum("hk,hkv->hv", k[t], memory)
        new = write[t][:, None] * v[t] - erase[t][:, None] * recalled
        memory = memory + k[t][:, :, None] * new[:, None]
    assert distance(found["state"][0], memory) < MOST


def test_the_gated_delta_rule(make_model: MakeModel, tmp_path: Path):
    config, tensors = exported(make_model(), tmp_path / "graph")
    delta_in_float64(tmp_path / "graph", config, tensors, exact=False)


def test_the_exact_flow(make_model: MakeModel, tmp_path: Path):
    model = make_model({"efla": {"enabled": True, "target_layers": "GD"}})
    config, tensors = exported(model, tmp_path / "graph")
    delta_in_float64(tmp_path / "graph", config, tensors, exact=True)


def test_the_matrix_lstm(make_model: MakeModel, tmp_path: Path):
    folder = tmp_path / "graph"
    config, tensors = exported(make_model({"backbone": {"layer_pattern": "XM XM XM XM"}}), folder)
    memory_node, normaliser_node = nodes_of(folder, "LinearAttention")[:2]
    products = [node.output[0] for node in nodes_of(folder, "MatMulNBits")[:2]]
    gates = nodes_of(folder, "MatMul")[0].output[0]
    wanted = {
        "qk": products[0],
        "v": products[1],
        "gates": gates,
        "state": memory_node.output[1],
        "normaliser": normaliser_node.output[1],
        "held": f"present.0.{CONV}",
    }
    found = told(folder, wanted)
    _, k = np.split(by_head(found["qk"], config), 2, axis=1)
    v = by_head(found["v"], config)
    i, f = np.split(found["gates"][0].astype(np.float64), 2, axis=1)
    i = i + tensors.floats("layers.0.mixer.i_bias")
    log_forget = -softplus(-(f + tensors.floats("layers.0.mixer.f_bias")))
    H, K = config.num_heads, config.head_dim
    memory, normaliser, scale = np.zeros((H, K, K)), np.zeros((H, K)), np.full(H, -np.inf)
    for t in range(NUM_TOKENS):
        faded = log_forget[t] + scale
        scale = np.maximum(faded, i[t])
        forget, write = np.exp(faded - scale), np.exp(i[t] - scale) / np.sqrt(K)
        written = write[:, None] * k[t]
        memory = forget[:, None, None] * memory + written[:, :, None] * v[t][:, None]
        normaliser = forget[:, None] * normaliser + written
    held = found["held"][0, :, 0]
    assert distance(found["state"][0], memory) < MOST
    assert distance(found["normaliser"][0, :, :, 0], normaliser) < MOST
    assert distance(held[config.hidden_size :][: H * K].reshape(H, K), normaliser) < MOST
    assert distance(held[config.hidden_size + H * K :][:H], scale) < MOST
    assert (held[config.hidden_size + H * K + H :][:H] == 1).all()
