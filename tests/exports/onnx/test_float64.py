"""Recurrences in float64, from the graph's projections: states stay beside them for hundreds of tokens."""

from pathlib import Path

import numpy as np

from configs.schema.model import ModelConfig
from exports.onnx.states import CONV, RECURRENT
from runtime.building.tensors import Tensors
from tests.exports.onnx.conftest import MakeModel
from tests.exports.onnx.float64 import (
    MOST,
    Doubles,
    behind_convolution,
    by_head,
    distance,
    exported,
    nodes_of,
    sigmoid,
    softplus,
    told,
)

NUM_TOKENS = 500


def mean_decay(x: Doubles) -> Doubles:
    return -np.expm1(-x) / x


def delta_in_float64(folder: Path, config: ModelConfig, tensors: Tensors, *, exact: bool) -> None:
    found = told(
        folder,
        calls=(NUM_TOKENS,),
        tokens={"qkv": behind_convolution(folder), "gates": nodes_of(folder, "MatMul")[0].output[0]},
        states={"state": f"present.0.{RECURRENT}"},
    )
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
    found = told(
        folder,
        calls=(NUM_TOKENS,),
        tokens={"qk": products[0], "v": products[1], "gates": gates},
        states={
            "state": memory_node.output[1],
            "normaliser": normaliser_node.output[1],
            "held": f"present.0.{CONV}",
        },
    )
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
