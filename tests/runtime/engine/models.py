"""Models for the tests of the engine: the micro preset and its relatives, with random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.load import build_config
from configs.schema.model import ModelConfig
from runtime.engine import Engine
from runtime.random_model import random_b158
from runtime.state import State

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "no loop, exact flow, plain feed-forward": {
        "looping": {"enabled": False},
        "efla": {"enabled": True, "target_layers": "GD SK"},
        "backbone": {"layer_pattern": "GD XM TM SK", "moe": {"enabled": False}},
    },
    "dense loop, output gates, sigmoid input gate": {
        "looping": {"injection": "dense", "zoh_input": "euler"},
        "gated_deltanet": {"use_output_gate": True},
        "xlstm": {"use_output_gate": True, "exponential_gating": False},
    },
    "widths that no tile divides, experts by softmax": {
        "hidden_size": 144,
        "num_heads": 3,
        "head_dim": 48,
        "intermediate_size": 200,
        "vocab_size": 301,
        "quantization": {"embedding_bits": 4},
        "backbone": {
            "moe": {
                "enabled": True,
                "layers": [1, 2],
                "n_routed_experts": 5,
                "n_shared_experts": 2,
                "num_experts_per_tok": 3,
                "moe_intermediate_size": 40,
                "routing": "softmax",
            }
        },
    },
    "one zero in every four, widths that no tile divides": {
        "hidden_size": 144,
        "num_heads": 3,
        "head_dim": 48,
        "intermediate_size": 198,
        "quantization": {"sherry_mode": {"enabled": True}},
        "backbone": {"moe": {"enabled": True, "layers": [1], "moe_intermediate_size": 42}},
    },
    "corrections, output gates": {
        "quantization": {"hgf_correction": {"enabled": True, "rank": 70}},
        "gated_deltanet": {"use_output_gate": True},
        "xlstm": {"use_output_gate": True},
    },
    "experts decided a layer ahead": {
        "backbone": {"moe": {"enabled": True, "layers": [1, 2, 3], "route_ahead": 1}},
    },
    "experts decided far ahead, by softmax, no loop": {
        "looping": {"enabled": False},
        "backbone": {"moe": {"enabled": True, "layers": [0, 2, 3], "route_ahead": 3, "routing": "softmax"}},
    },
    "small window, no slots, two bits": {
        "quantization": {"embedding_bits": 2},
        "titans": {"persistent_memory_slots": 0, "local_window_size": 7, "memory_chunk": 5},
    },
}
"""What is laid over the micro preset. Together they go through every kind of layer and every choice."""


def config_of(variant: str) -> ModelConfig:
    return build_config({"preset": "micro", **VARIANTS[variant]}, source=variant)


def make_model(folder: Path, variant: str = "as it is", *, seed: int = 3) -> Path:
    """The packed model of a variant."""
    path = folder / "model.b158"
    random_b158(config_of(variant), path, seed=seed)
    return path


def tokens_of(config: ModelConfig, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count)


def same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def same_states(one: State, other: State) -> bool:
    return same_bits(one.arena, other.arena)


def mixing_threshold(engine: Engine, ids: NDArray[np.int64]) -> float:
    """A threshold at which some of these tokens leave the loop sooner than others, found by halving."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        taken = rounds_of(engine, ids, exit_threshold=middle)
        if len(set(taken)) > 1:
            return middle
        low, high = (middle, high) if taken[0] > engine.config.rounds_most // 2 else (low, middle)
    raise AssertionError("all tokens leave alike at any threshold")


def rounds_of(engine: Engine, ids: NDArray[np.int64], *, exit_threshold: float) -> list[int]:
    """Rounds that each token takes."""
    state, taken = engine.new_state(engine.config.rounds_most), list[int]()
    for token in ids:
        engine.step(state, int(token), exit_threshold=exit_threshold)
        taken.append(int(engine.rounds_taken()[0]))
    return taken
