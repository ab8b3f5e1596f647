"""A model on disk: round trip, and checkpoints of another config."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chimera.model import build
from chimera.saving import CONFIG_NAME, WEIGHTS_NAME, load_model, save_model
from configs.errors import ModelError
from configs.load import build_config, preset, to_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    save_model(build(preset("micro")), tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_answers_as_before(folder: Path):
    torch.manual_seed(4)
    before, after = build(preset("micro")), load_model(folder)
    ids = torch.arange(24).view(2, 12)
    assert after.config == before.config
    assert torch.equal(before(ids).hidden_BTD, after(ids).hidden_BTD)
    assert not any(parameter.is_meta for parameter in after.parameters())
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]


def test_a_checkpoint_of_another_config_is_refused_by_both_names(folder: Path):
    other = build_config({"preset": "micro", "intermediate_size": 192}, source="test")
    (folder / CONFIG_NAME).write_text(to_json(other))
    with pytest.raises(
        ModelError, match=r"is \[256, 128\] in the file, \[192, 128\] by the config.* and \d+ more"
    ):
        load_model(folder)


def test_missing_and_foreign_tensors_are_named(folder: Path):
    weights = load_file(folder / WEIGHTS_NAME)
    weights["surplus"] = weights.pop("final_norm.weight")
    save_file(weights, folder / WEIGHTS_NAME)
    with pytest.raises(
        ModelError, match=r"final_norm.weight is missing; surplus is not in the config's model"
    ):
        load_model(folder)


def test_a_damaged_file_is_refused(folder: Path):
    path = folder / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_model(folder)


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(ModelError, match="no such file"):
        load_model(folder)
