"""A damaged model, and one with more than weights, go out in no other form."""

from pathlib import Path

import pytest

from configs.errors import EXIT_MODEL
from quant.adapter import AdapterHeader
from quant.adapter_log import AdapterLog
from quant.container import open_b158
from runtime.cli.main import main
from runtime.random_model import random_b158
from tests.chimera.finetune.models import config

FORMS = ("onnx", "huggingface", "gguf")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    random_b158(config(), tmp_path / "model" / "model.b158", seed=1)
    return tmp_path / "model"


def refusals(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What each form says, once it was seen to write nothing."""
    said: list[str] = []
    for form in FORMS:
        assert main(["export", form, str(model), str(out)]) == EXIT_MODEL
        said.append(capsys.readouterr().err)
        assert not out.exists()
    return said


def test_a_damaged_file_gets_no_clean_copy(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = model / "model.b158"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    for said in refusals(model, tmp_path / "out", capsys):
        assert "model.b158 is damaged" in said


def test_what_a_stream_begins_with_is_not_dropped_in_silence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with open_b158(model / "model.b158") as file:
        base = file.digest
    (model / "adapters").mkdir()
    settings = {"epsilon": 0.05, "exponents": "0.0:-3"}
    header = AdapterHeader(method="state", base=base, seed=0, settings=settings)
    AdapterLog.begin(model / "adapters" / "001-learnt.cza", header).close()
    for said in refusals(model, tmp_path / "out", capsys):
        assert "001-learnt.cza is of what a stream begins with" in said
    assert main(["export", "gguf", str(model / "model.b158"), str(tmp_path / "out")]) == 0
