"""Small models, each as one file and with its experts on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.load import build_config
from exports.pack_experts import pack_experts
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.random_model import random_b158
from tests.runtime.engine.models import VARIANTS

MOE = {"backbone": {"moe": {"enabled": True, "layers": [1, 2, 3], "n_routed_experts": 6}}}
MODELS: dict[str, Mapping[str, Any]] = {
    "through a loop": MOE,
    "softmax, odd widths": VARIANTS["widths that no tile divides, experts by softmax"],
    "one zero in every four": VARIANTS["one zero in every four, widths that no tile divides"],
    "decided a layer ahead": VARIANTS["experts decided a layer ahead"],
}


@dataclass(frozen=True, kw_only=True)
class Both:
    """A model in its two forms."""

    whole: Path
    packed: Path
    ids: NDArray[np.int64]
    expected: NDArray[np.float32]
    """Logits behind the prompt and each token after it, with all experts in memory."""
    state: bytes
    block_bytes: int


PROMPT = 40


def read(engine: Engine, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], bytes]:
    """Logits along a text, and the state at its end."""
    state = engine.new_state()
    engine.prefill(state, ids[:PROMPT])
    found = [engine.logits().copy()]
    for token in ids[PROMPT:]:
        engine.step(state, int(token))
        found.append(engine.logits().copy())
    return np.stack(found), state.arena.tobytes()


def make_both(folder: Path, name: str) -> Both:
    config = build_config({"preset": "micro", **MODELS[name]}, source=name)
    whole = folder / "whole" / "model.b158"
    whole.parent.mkdir(parents=True)
    random_b158(config, whole, seed=5)
    packed = pack_experts(whole, folder / "packed")
    ids = np.random.default_rng(1).integers(0, config.vocab_size, PROMPT + 16)
    with Engine.open(whole, num_threads=1) as engine:
        expected, state = read(engine, ids)
    return Both(
        whole=whole,
        packed=packed.folder,
        ids=ids,
        expected=expected,
        state=state,
        block_bytes=packed.manifest.form.block_bytes,
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Both]:
    """The model of a name, made once."""
    made: dict[str, Both] = {}

    def of(name: str) -> Both:
        if name not in made:
            made[name] = make_both(tmp_path_factory.mktemp("model"), name)
        return made[name]

    return of


@pytest.fixture
def both(models: Callable[[str], Both]) -> Both:
    return models("through a loop")


def asked(both: Both, num_slots: int, **more: Any) -> ExpertsAsked:
    return ExpertsAsked(memory_bytes=num_slots * both.block_bytes, **more)
