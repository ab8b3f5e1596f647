"""Titans in float64, from the graph's projections: the memory that a text leaves, and the window beside it.

A fresh memory forgets faster than it learns, and hardly moves off zero. What is compared here is the demo,
which was trained, and a memory that learns with its full rate, so that gradients are clipped and both layers
of it are at work.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chimera.saving import save_model
from configs.load import build_config
from configs.schema.model import ModelConfig
from exports.b158 import export_b158
from runtime.building.tensors import Tensors
from runtime.model_folder import DEMO
from tests.exports.conftest import learnt
from tests.exports.onnx.float64 import (
    MOST,
    Doubles,
    behind_convolution,
    by_head,
    distance,
    exported,
    nodes_of,
    sigmoid,
    told,
)

CALLS = (500, *(1,) * 20)
"""Many tokens at once and one alone are two branches of the graph; both pass a border of the memory."""
MEMORY = ("border_1", "border_2", "running_1", "running_2", "momentum_1", "momentum_2")
WINDOW = ("keys", "key_scales", "values", "value_scales")
HALF_A_CODE = 0.5 + 1e-3


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model whose memory learns fast and forgets slowly, over many chunks and rings."""
    config = build_config({"preset": "micro", "backbone": {"layer_pattern": "TM TM TM TM"}}, source="test")
    model = learnt(config)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.add_({"theta_bias": 6.0, "alpha_bias": -2.0}.get(name.rpartition(".")[2], 0.0))
    folder = tmp_path_factory.mktemp("eager")
    save_model(model, folder / "checkpoint")
    export_b158(folder / "checkpoint", folder / "packed")
    return folder / "packed"


def unit(x: Doubles) -> Doubles:
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + 1e-6)


def product(x_HK: Doubles, weights_HKV: Doubles) -> Doubles:
    return np.einsum("hk,hkv->hv", x_HK, weights_HKV)


def outer(x_HK: Doubles, y_HV: Doubles) -> Doubles:
    return x_HK[:, :, None] * y_HV[:, None]


def gradients_of(memory: list[Doubles], k_HK: Doubles, v_HV: Doubles) -> tuple[Doubles, Doubles]:
    """Of half the squared distance between the memory's answer to k and v."""
    preact = product(k_HK, memory[0])
    gate = sigmoid(preact)
    hidden = preact * gate
    error = k_HK + product(hidden, memory[1]) - v_HV
    back = product(error, memory[1].swapaxes(1, 2)) * gate * (1 + preact * (1 - gate))
    return outer(k_HK, back), outer(hidden, error)


def memory_in_float64(
    found: dict[str, NDArray[Any]], config: ModelConfig, tensors: Tensors, *, layer: int
) -> dict[str, Doubles]:
    """Weights at the chunk's start and now, momentum, and the answers to the chunk's tokens."""
    parts = ("eta_bias", "theta_bias", "alpha_bias", "memory_w1", "memory_w2")
    floats = {name: tensors.floats(f"layers.{layer}.mixer.{name}").astype(np.float64) for name in parts}
    q, k, v = np.split(by_head(found["qkv"], config), 3, axis=1)
    eta, theta, alpha = np.split(found["gates"][0].astype(np.float64), 3, axis=1)
    pushed, rate = sigmoid(eta + floats["eta_bias"]), 0.01 * sigmoid(theta + floats["theta_bias"])
    kept = sigmoid(-(alpha + floats["alpha_bias"]))
    H, K, C = config.num_heads, config.head_dim, config.titans.memory_chunk
    q, k = np.sqrt(K) * unit(q), np.sqrt(K) * unit(k)
    running = [floats[f"memory_w{number}"].swapaxes(1, 2) for number in (1, 2)]
    border, momentum, answers = running, [np.zeros((H, K, K))] * 2, np.zeros((H, C, K))
    was_clipped = False
    for t in range(sum(CALLS)):
        if t % C == 0:
            border = running
        preact = product(q[t], border[0])
        answers[:, t % C] = q[t] + product(preact * sigmoid(preact), border[1])
        gradients = gradients_of(border, k[t], v[t])
        norm = np.sqrt(sum((gradient**2).sum(axis=(1, 2)) for gradient in gradients))
        was_clipped |= bool((norm > 1).all())
        step = (rate[t] / np.maximum(norm, 1))[:, None, None]
        pairs = zip(momentum, gradients, strict=True)
        momentum = [pushed[t][:, None, None] * old - step * gradient for old, gradient in pairs]
        running = [kept[t][:, None, None] * old + new for old, new in zip(running, momentum, strict=True)]
    assert was_clipped
    return dict(zip(MEMORY, (*border, *running, *momentum), strict=True)) | {"answers": answers}


def window_in_float64(found: dict[str, NDArray[Any]], config: ModelConfig) -> tuple[Doubles, Doubles]:
    """Turned keys and values in their places of the ring, [H, W, K], before they become codes."""
    _, k, v = np.split(by_head(found["qkv"], config), 3, axis=1)
    half, W = config.head_dim // 2, config.titans.local_window_size
    steps = float(config.titans.rope_theta) ** (-np.arange(half) / half)
    angles = np.arange(len(k))[:, None, None] * steps
    first, second = np.split(unit(k), 2, axis=2)
    turned = np.concatenate(
        (first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)),
        axis=2,
    )
    rings = np.zeros((2, W, *k.shape[1:]))
    places = np.arange(len(k))[-W:]
    rings[0, places % W], rings[1, places % W] = turned[places], v[places]
    keys, values = rings.swapaxes(1, 2)
    return keys, values


@pytest.mark.parametrize(("name", "layer"), [("demo", 3), ("eager", 0)])
def test_the_memory_and_its_window(request: pytest.FixtureRequest, tmp_path: Path, name: str, layer: int):
    folder = tmp_path / "graph"
    config, tensors = exported(DEMO if name == "demo" else request.getfixturevalue("eager"), folder)
    gates = next(
        node.output[0]
        for node in nodes_of(folder, "MatMul")
        if node.input[1].startswith(f"layers.{layer}.mixer.eta_proj.weight")
    )
    # In the first round of the loop a layer stands where the config has it.
    found = told(
        folder,
        calls=CALLS,
        tokens={"qkv": behind_convolution(folder, number=layer), "gates": gates},
        states={
            state: f"present.{layer}.{state}" for state in (*MEMORY, "answers", "answer_scales", *WINDOW)
        },
    )
    right = memory_in_float64(found, config, tensors, layer=layer)
    right["answer_scales"] = 1 / np.sqrt((right["answers"] ** 2).sum(axis=2) + 1e-6)
    ring = dict(zip(("key", "value"), window_in_float64(found, config), strict=True))
    right |= {f"{part}_scales": np.abs(exact).max(axis=2) / 127 for part, exact in ring.items()}
    for state, array in right.items():
        for head in range(config.num_heads):
            assert distance(found[state][0, head], array[head]) < MOST, (state, head)
    for part, exact in ring.items():
        codes, scales = found[f"{part}s"][0], found[f"{part}_scales"][0][:, :, None]
        assert (np.abs(codes * scales - exact) <= HALF_A_CODE * scales).all(), part
