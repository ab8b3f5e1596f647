"""A model with random weights computes as a fresh one does: same scales, nothing infinite on the way."""

from pathlib import Path

import numpy as np
import pytest
import torch

from chimera.model import ChimeraForCausalLM, build
from configs.inventory import tensors
from configs.load import build_config, preset
from configs.schema.model import ModelConfig
from quant.container import open_b158
from runtime.random_model import random_b158
from tests.exports.test_b158 import forward_values, packed_values

DEEP = build_config(
    {
        "preset": "chimera-5.1-sum",
        "hidden_size": 128,
        "vocab_size": 512,
        "token_ids": [0, 1],
        "titans": {"local_window_size": 64},
    },
    source="test",
)


def random_values(config: ModelConfig, path: Path) -> dict[str, np.ndarray]:
    random_b158(config, path)
    with open_b158(path) as file:
        return {name: values.copy() for name, values in packed_values(file).items()}


def whole(model: ChimeraForCausalLM, values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The values by the names of a checkpoint: experts stacked again."""
    return {
        tensor.name: torch.from_numpy(
            np.stack([values[part.name] for part in tensor.apart()])
            if tensor.experts
            else values[tensor.name]
        )
        for tensor in tensors(model.config)
    }


def test_scales_are_those_of_a_fresh_model(tmp_path: Path):
    torch.manual_seed(0)
    fresh = build(preset("demo"))
    found = random_values(preset("demo"), tmp_path / "demo")
    for name, value in forward_values(fresh).items():
        # What a fresh model holds at zero or one, a random one moves.
        if value.dim() >= 2 and value.std() > 0 and value.numel() > 1000:
            ratio = float(found[name].std() / value.std())
            assert 0.8 < ratio < 1.25, (name, ratio)


@pytest.mark.parametrize("config", [preset("micro"), DEEP], ids=["micro", "28 layers"])
@torch.no_grad()
def test_nothing_grows_beyond_measure(tmp_path: Path, config: ModelConfig):
    """As latent weights they are quantised once more, which leaves them two thirds of their scale."""
    model = build(config)
    model.load_state_dict(whole(model, random_values(config, tmp_path / "random")))
    seen: list[float] = []
    for block in model.layers:
        block.register_forward_hook(lambda _, __, out: seen.append(float(out[0].abs().max())))
    out = model(torch.randint(config.vocab_size, (1, 40), generator=torch.Generator().manual_seed(0)))
    logits = model.logits(out.hidden_BTD)
    assert torch.isfinite(logits).all()
    assert 0.05 < float(logits.std()) < 5
    assert max(seen) < 1e3
