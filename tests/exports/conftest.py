"""A checkpoint whose every tensor has left its initial value, and a tokenizer that fits it."""

import textwrap
from pathlib import Path

import pytest
import torch

from chimera.model import ChimeraForCausalLM, build
from chimera.saving import save_model
from configs.load import build_config, preset
from configs.schema.model import ModelConfig
from configs.text.training import train_sentencepiece

WORDS = (
    "the small grey cat sat by the river and the river sang to the cat until the moon came up over them all"
)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def learnt(config: ModelConfig, *, seed: int = 0) -> ChimeraForCausalLM:
    """A model as training might leave it: gains, biases and buffers moved, some groups all zero."""
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.add_(torch.randn_like(value), alpha=0.05 if value.dim() < 2 else 0.004)
            if name.endswith("down_proj.weight"):
                value[..., :3, :128] = 0.0
    return model


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "micro"
    save_model(learnt(preset("micro")), folder)
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another config."""
    folder = tmp_path_factory.mktemp("checkpoint") / "other"
    save_model(learnt(build_config({"preset": "micro", "intermediate_size": 192}, source="test")), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model with the usual special tokens and fewer ids than micro has words."""
    path = tmp_path_factory.mktemp("tokenizer") / "words.model"
    # Any English text does; this one is on every machine.
    train_sentencepiece([Path(textwrap.__file__).read_text()], out=path, vocab_size=400, num_threads=1)
    return path
