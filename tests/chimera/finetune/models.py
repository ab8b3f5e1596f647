"""A tiny model and sequences for it, the same in every process."""

import hashlib

import torch
from torch import Tensor

from chimera.model import ChimeraForCausalLM, build
from configs.load import build_config
from configs.schema.model import ModelConfig

BATCH, TOKENS, CLASSES = 8, 8, (7, 9)


def config() -> ModelConfig:
    """Two layers, tied embedding and head."""
    return build_config(
        {
            "preset": "micro",
            "num_hidden_layers": 2,
            "vocab_size": 64,
            "backbone": {"layer_pattern": "GD XM", "moe": {"enabled": False}},
            "looping": {"enabled": False},
        },
        source="test",
    )


def model() -> ChimeraForCausalLM:
    """With the weights of training's beginning."""
    torch.manual_seed(0)
    return build(config())


def two_classes(seed: int, *, count: int = BATCH) -> tuple[Tensor, Tensor]:
    """Sequences that end with one of two words, by whether their words are low or high."""
    generator = torch.Generator().manual_seed(seed)
    high_B = torch.randint(2, (count,), generator=generator)
    ids_BT = torch.randint(10, 32, (count, TOKENS), generator=generator) + 32 * high_B[:, None]
    labels_BT = torch.full_like(ids_BT, -100)
    labels_BT[:, -1] = torch.tensor(CLASSES)[high_B]
    return ids_BT.clamp_max(63), labels_BT


def digest(model: ChimeraForCausalLM) -> str:
    """The name of a model's weights, all of them."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()
