"""The weights in an expert's bytes: those that the format's own reader finds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from chronos_moe.device.blocks import expert_weights
from chronos_moe.store.form import expert_form, expert_layers
from chronos_moe.store.manifest import EXPERTS_KEY, MANIFEST_NAME, read_manifest
from configs.load import build_config
from exports.pack_experts import pack_experts
from exports.unpacked import torch_model
from quant.container import open_b158
from runtime.random_model import random_b158

MOE = {"moe": {"enabled": True, "layers": [1], "n_routed_experts": 5, "moe_intermediate_size": 72}}


@pytest.mark.parametrize("is_sherry", [False, True])
def test_every_expert_is_that_of_the_whole_model(tmp_path: Path, is_sherry: bool):
    raw = {
        "preset": "micro",
        "hidden_size": 144,
        "backbone": MOE,
        "quantization": {"sherry_mode": {"enabled": is_sherry}},
    }
    config = build_config(raw, source="a test")
    whole = tmp_path / "whole" / "model.b158"
    whole.parent.mkdir()
    random_b158(config, whole, seed=5)
    pack_experts(whole, tmp_path / "packed")
    with open_b158(tmp_path / "packed" / "model.b158") as file:
        manifest = read_manifest(
            tmp_path / "packed" / MANIFEST_NAME, config, experts_digest=file.metadata[EXPERTS_KEY]
        )
    (layer,) = expert_layers(config)
    experts = torch_model(whole).layers[layer].get_submodule("ffn.experts")
    for (_, expert), place in manifest.places().items():
        path = tmp_path / "packed" / manifest.clusters[place.cluster].file
        form = expert_form(config)
        block = np.fromfile(path, dtype=np.uint8, count=form.block_bytes, offset=place.offset)
        found = expert_weights(torch.from_numpy(block), form)
        gate, up, down = (
            experts.get_parameter(f"{name}_proj.weight")[expert] for name in ("gate", "up", "down")
        )
        assert torch.equal(found.gate_and_up, torch.cat([gate, up]))
        assert torch.equal(found.down, down)
        assert torch.equal(found.down_norm, experts.get_parameter("down_norm")[expert])
