"""What a graph says of itself, and the functions that recurrences in float64 are written in."""

from collections.abc import Sequence
from itertools import pairwise
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
from runtime.building.tensors import Tensors
from runtime.model_folder import open_model

Doubles: TypeAlias = NDArray[np.float64]
MOST = 1e-5
"""How far a state may be from that of float64, of its own size."""


def exported(model: Path, folder: Path) -> tuple[ModelConfig, Tensors]:
    export_onnx(model, folder, profile="reference")
    opened = open_model(model)
    return opened.config, Tensors(opened)


def nodes_of(folder: Path, kind: str) -> list[onnx.NodeProto]:
    """The nodes of a kind, in order."""
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    return [node for node in graph.node if node.op_type == kind]


def behind_convolution(folder: Path, *, number: int = 0) -> str:
    """What the convolution of a layer gives, tokens before channels."""
    convolved = nodes_of(folder, "CausalConvWithState")[number].output[0]
    return next(node.output[0] for node in nodes_of(folder, "Transpose") if node.input[0] == convolved)


def told(
    folder: Path, *, calls: Sequence[int], tokens: dict[str, str], states: dict[str, str]
) -> dict[str, NDArray[Any]]:
    """Named values of a graph for all tokens, and states behind the last; `calls` are tokens a call."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    known = {output.name for output in model.graph.output}
    for name in {*tokens.values(), *states.values()} - known:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, FLOAT, None))
    path = folder / "told.onnx"
    path.write_bytes(model.SerializeToString())
    session, begun = onnxruntime.InferenceSession(path), GraphSession(folder)
    ids = np.random.default_rng(0).integers(0, 500, (1, sum(calls)))
    held, parts = begun.begin(), dict[str, list[NDArray[Any]]]()
    names = [output.name for output in session.get_outputs()]
    for first, after in pairwise(np.cumsum([0, *calls])):
        found = dict(zip(names, session.run(None, {**held, IDS: ids[:, first:after]}), strict=True))
        held = {state["past"]: found[state["present"]] for state in begun.states}
        for key, name in tokens.items():
            parts.setdefault(key, []).append(found[name])
    along = {key: np.concatenate(values, axis=1) for key, values in parts.items()}
    return along | {key: found[name] for key, name in states.items()}


def by_head(x: NDArray[Any], config: ModelConfig) -> Doubles:
    return x[0].astype(np.float64).reshape(x.shape[1], -1, config.head_dim)


def softplus(x: Doubles) -> Doubles:
    return np.logaddexp(0, x)


def sigmoid(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


def distance(found: NDArray[Any], right: Doubles) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))
