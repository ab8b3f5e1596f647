"""A stream of the engine in the states of a graph: a talk goes on where it stood."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.schema.backbone import LayerKind
from configs.schema.model import ModelConfig
from exports.onnx.states import CONV, POSITION, RECURRENT, StatePlan, Visit
from runtime.arena import StateLayout
from runtime.building.states import padded_width
from runtime.state import State

Arrays: TypeAlias = dict[str, NDArray[Any]]


def graph_states(config: ModelConfig, states: StatePlan, layout: StateLayout, state: State) -> Arrays:
    """Inputs of the graph for a batch of one, by name."""
    inputs: Arrays = {}
    for visit in states.visits:
        index, number = visit.layer.index, visit.round
        held = {
            name: placed.view(state.arena)
            for (layer, of_round, name), placed in layout.places.items()
            if (layer, of_round) == (index, number)
        }
        for name, array in KINDS[visit.layer.kind](config, visit, held).items():
            tensor = visit.states[name]
            whole = np.zeros((1, *tensor.shape), dtype=tensor.dtype)
            whole[(0, *(slice(size) for size in array.shape))] = array
            inputs[tensor.past] = whole
    if states.position is not None:
        inputs[POSITION] = np.array([state.position], dtype=np.int64)
    return inputs


def _gated_delta(config: ModelConfig, visit: Visit, held: Arrays) -> Arrays:
    return {RECURRENT: held["memory"], CONV: _tail(config, held["tail"])}


def _mlstm(config: ModelConfig, visit: Visit, held: Arrays) -> Arrays:
    scale = held["log_scale"]
    has_begun = np.isfinite(scale)
    numbers = (held["normaliser"].reshape(-1), np.where(has_begun, scale, 0), has_begun)
    columns = held["tail"].shape[0]
    behind = np.zeros((sum(map(np.size, numbers)), columns), dtype=np.float32)
    behind[:, 0] = np.concatenate(numbers)
    return {RECURRENT: held["memory"], CONV: np.concatenate([held["tail"].T, behind])}


def _titans(config: ModelConfig, visit: Visit, held: Arrays) -> Arrays:
    K, chunk = config.head_dim, config.titans.memory_chunk
    position = int(held["position"][0])
    border = held["memory"][:, position // chunk % 2]
    running = border if position % chunk == 0 else held["memory"][:, (position // chunk + 1) % 2]
    memories = {"border": border, "running": running, "momentum": held["momentum"]}
    arrays = {
        f"{name}_{number + 1}": memory[:, number, :, :K]
        for name, memory in memories.items()
        for number in (0, 1)
    }
    rows = {name: held[name][..., :K] for name in ("answers", "keys", "values")}
    scales = {name: held[name] for name in ("answer_scales", "key_scales", "value_scales")}
    return {CONV: _tail(config, held["tail"]), **arrays, **rows, **scales}


def _tail(config: ModelConfig, tail: NDArray[Any]) -> NDArray[Any]:
    """The last inputs of q, k and v, each padded in the engine: [3·H·K, taps − 1]."""
    parts = tail.reshape(tail.shape[0], 3, padded_width(config))[:, :, : config.inner_width]
    return parts.reshape(tail.shape[0], -1).T


KINDS: Mapping[LayerKind, Callable[[ModelConfig, Visit, Arrays], Arrays]] = {
    "gated_deltanet": _gated_delta,
    "tsp_span_knot": _gated_delta,
    "xlstm_m": _mlstm,
    "titans_mac": _titans,
}
