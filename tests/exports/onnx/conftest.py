"""Small packed models with random weights, and what is exported of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from configs.load import build_config
from runtime.random_model import random_b158

MakeModel: TypeAlias = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A packed `micro` with these changes to its config."""

    def make(changes: dict[str, Any] | None = None, *, seed: int = 0) -> Path:
        config = build_config({"preset": "micro", **(changes or {})}, source="test")
        path = tmp_path_factory.mktemp("model") / "model.b158"
        random_b158(config, path, seed=seed)
        return path

    return make


@pytest.fixture(scope="session")
def recurrent(make_model: MakeModel) -> Path:
    """A model without Titans, as onnxruntime-genai can run it."""
    return make_model({"backbone": {"layer_pattern": "GD XM GD SK"}})
