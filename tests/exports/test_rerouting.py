"""Experts decided earlier in a model that there is: new routers, all else byte for byte."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chimera.saving import save_model
from configs.errors import DataError, UsageError
from configs.load import build_config
from exports.b158 import export_b158
from exports.rerouting import decided_layers, reroute
from exports.unpacked import torch_model
from runtime.cli.main import main
from runtime.engine import Engine
from runtime.measuring.foreseeing import measure_foresight
from runtime.model_folder import open_model
from tests.exports.conftest import learnt

LAYERS = [1, 2, 3]


def texts(count: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 512, 300) for _ in range(count)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerouting")
    config = build_config(
        {"preset": "micro", "backbone": {"moe": {"enabled": True, "layers": LAYERS}}}, source="test"
    )
    model = learnt(config)
    with torch.no_grad():
        for layer in LAYERS:
            model.layers[layer].ffn.router.mul_(20)  # decided enough for a choice to be one
    save_model(model, folder / "checkpoint")
    export_b158(folder / "checkpoint", folder / "packed")
    return folder / "packed"


def test_a_model_is_as_it_was_but_for_its_routers(packed: Path, tmp_path: Path) -> None:
    heard = list[tuple[int, int]]()
    rerouted = reroute(
        packed,
        tmp_path / "out",
        ahead=1,
        texts=texts(12),
        most_tokens=2000,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert heard[-1] == (2000, 2000)
    before, after = open_model(packed), open_model(tmp_path / "out")
    assert rerouted.digest == after.digest != before.digest
    assert after.config.backbone.moe.route_ahead == 1
    assert decided_layers(after.config) == LAYERS
    for name in before.file.tensors:
        one, other = (opened.file.tensor(name) for opened in (before, after))
        if name.endswith("ffn.router"):
            assert isinstance(one, np.ndarray)
            assert isinstance(other, np.ndarray)
            assert not np.array_equal(one, other)
        elif isinstance(one, np.ndarray):
            assert np.array_equal(one, other)
        else:
            assert one.codes.tobytes() == other.codes.tobytes()
            assert one.scales.tobytes() == other.scales.tobytes()
    # Chance is a half: two of four.
    assert all(share > 0.7 for share in rerouted.agreement.values())
    with Engine.open(tmp_path / "out", num_threads=1, foresight=True) as engine:
        found = measure_foresight(engine, texts(1), most_tokens=40)
        assert (found.over_layers("foresight", 0).recall, found.over_layers("twice", 0).precision) == (1, 1)
        ids = texts(1)[0][:8]
        state = engine.new_state()
        engine.prefill(state, ids)
        with torch.no_grad():
            model = torch_model(tmp_path / "out")
            right = model.logits(model(torch.from_numpy(ids)[None]).hidden_BTD)[0, -1].numpy()
        assert np.linalg.norm(engine.logits() - right) < 0.1 * np.linalg.norm(right)


def test_what_cannot_be_rerouted_is_refused(packed: Path, tmp_path: Path) -> None:
    def refused(said: str, *, source: Path = packed, ahead: int = 1, tokens: int = 500) -> None:
        with pytest.raises((UsageError, DataError), match=said):
            reroute(source, tmp_path / "out", ahead=ahead, texts=[], most_tokens=tokens)

    refused("0 layers ahead; allowed are 1 to 4", ahead=0)
    refused("0 tokens to fit by", tokens=0)
    refused("no document has 128 tokens")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    refused("is there already")
    config = build_config({"preset": "micro", "backbone": {"moe": {"enabled": False}}}, source="test")
    save_model(learnt(config), tmp_path / "plain")
    export_b158(tmp_path / "plain", tmp_path / "plain.b158")
    refused("has no experts", source=tmp_path / "plain.b158")


def test_the_verb_refuses_what_cannot_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route-ahead", "demo", "out", "--data", "x", "--layers", "0"]) == 2
    assert "--layers 0" in capsys.readouterr().err
