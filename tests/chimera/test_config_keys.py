"""Keys of a config that act in PyTorch alone: each changes the model that is built, or what it computes."""

from typing import Any

import pytest
import torch

from chimera.model import build
from configs.load import build_config

KEYS: dict[str, dict[str, Any]] = {
    "initializer_range": {"initializer_range": 0.05},
    "rms_norm_eps": {"rms_norm_eps": 1e-2},
    "quantization.weight_scale": {"quantization": {"weight_scale": "absmean_per_row"}},
    "quantization.activation_method": {"quantization": {"activation_method": "absmax_per_token"}},
    "gated_deltanet.chunk_size": {"gated_deltanet": {"chunk_size": 8}},
    "xlstm.chunk_size": {"xlstm": {"chunk_size": 8}},
    "backbone.moe.routing": {"backbone": {"moe": {"routing": "softmax"}}},
    "efla.enabled": {"efla": {"enabled": True}},
    "efla.target_layers": {"efla": {"enabled": True, "target_layers": "GD"}},
    "xlstm.exponential_gating": {"xlstm": {"exponential_gating": False}},
    "titans.window_bits": {"titans": {"window_bits": 32}},
    "titans.rope_theta": {"titans": {"rope_theta": 100.0}},
    "looping.zoh_input": {"looping": {"zoh_input": "euler"}},
    "looping.backward_truncation": {"looping": {"backward_truncation": "none"}},
}


def gradient_and_output(changes: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = build(build_config({"preset": "micro", **changes}, source="test")).train()
    ids = torch.arange(66).view(2, 33) * 7 % 512
    hidden = model(ids, rounds=2).hidden_BTD
    hidden.square().mean().backward()
    grad = model.layers[1].mixer.q_proj.weight.grad
    assert grad is not None
    return grad, hidden.detach()


@pytest.mark.parametrize("key", KEYS)
def test_each_key_changes_what_is_learnt(key: str):
    base = {"efla": {"enabled": True}} if key == "efla.target_layers" else {}
    before, after = gradient_and_output(base), gradient_and_output(KEYS[key])
    assert not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
