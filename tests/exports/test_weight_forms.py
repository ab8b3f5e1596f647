"""Models with one zero in four weights and corrections: one forward pass, from wherever it is opened."""

from pathlib import Path

import numpy as np
import pytest
import torch

from chimera.saving import load_model, save_model
from configs.load import build_config
from exports.b158 import export_b158
from exports.perplexity import open_scorer
from exports.unpacked import torch_model
from quant.container import open_b158
from runtime.model_folder import open_model
from runtime.random_model import random_b158
from tests.exports.conftest import learnt

CONFIG = build_config(
    {
        "preset": "micro",
        "looping": {"enabled": False},
        "quantization": {"sherry_mode": {"enabled": True}, "hgf_correction": {"enabled": True, "rank": 6}},
    },
    source="test",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and its packed file."""
    made = tmp_path_factory.mktemp("forms")
    save_model(learnt(CONFIG), made / "checkpoint")
    export_b158(made / "checkpoint", made / "packed")
    return made


@torch.no_grad()
def test_a_checkpoint_a_scorer_and_an_unpacked_file_compute_alike(folder: Path):
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 512, (1, 24)))
    before, after = ids[:, :-1], ids[0, 1:]
    model = load_model(folder / "checkpoint").eval()
    logits = model.logits(model(before).hidden_BTD)
    unpacked = torch_model(folder / "packed")
    assert torch.equal(unpacked.logits(unpacked(before).hidden_BTD), logits)
    expected = logits[0].double().log_softmax(dim=-1)[torch.arange(23), after]
    found = open_scorer(folder / "checkpoint").score(ids[0].numpy(), goes_on=False)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


def test_a_file_holds_corrections_with_their_gates_inside(folder: Path, tmp_path: Path):
    with open_model(folder / "packed").file as file, open_b158(folder / "packed" / "model.b158") as again:
        names = [name for name in file.tensors if "correction" in name]
        assert names
        assert not any(name.endswith("gate") for name in names)
        assert all(file.tensors[name].kind == "int8" for name in names)
        assert not any(".experts." in name for name in names)
        assert {file.tensors[name].kind for name in file.tensors if "proj.weight" in name} >= {"sherry"}
        assert again.verify() == ()
    random_b158(CONFIG, tmp_path / "random.b158")
    with open_b158(tmp_path / "random.b158") as file:
        assert file.verify() == ()
