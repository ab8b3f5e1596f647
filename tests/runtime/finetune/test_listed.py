"""`chimera inspect` of a model's folder: what was learnt since the model was packed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quant.adapter import read_adapter
from quant.container import open_b158
from runtime.cli.main import main
from tests.runtime.finetune.forging import forged
from tests.runtime.finetune.learning import Finetune, make_other


@pytest.fixture
def learnt(finetune: Finetune, folder: Path, tmp_path: Path) -> Path:
    """A folder with a config and two adapters that were applied, the second learnt on top of the first."""
    copy = tmp_path / "copy"
    shutil.copytree(folder / "model", copy)
    with open_b158(copy / "model.b158") as file:
        (copy / "config.json").write_text(file.config)
    few = ("--steps", 2, "--batch", 1)
    assert finetune(*few, out="tone.cza")[0] == 0
    above = ("--adapter", tmp_path / "tone.cza")
    assert finetune(*few, "--method", "state", *above, out="mood.cza")[0] == 0
    assert finetune("apply", copy, tmp_path / "tone.cza", tmp_path / "mood.cza", verb="adapter")[0] == 0
    return copy


def report(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_tells_its_adapters(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(learnt, capsys)["adapters"]
    paths = sorted((learnt / "adapters").iterdir())
    with open_b158(learnt / "model.b158") as file:
        base = file.digest
    assert found == [
        {
            "file": path.name,
            "bytes": path.stat().st_size,
            "method": method,
            "steps": 2,
            "base": base,
            "digest": read_adapter(path).digest,
            "verdict": "holds",
            "note": "",
        }
        for path, method in zip(paths, ("scales", "state"), strict=True)
    ]
    assert main(["inspect", str(learnt)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if ".cza" in line]
    assert [(line[0], *line[1:3], line[-1]) for line in lines] == [
        ("001-tone.cza", "scales", "2", "holds"),
        ("002-mood.cza", "state", "2", "holds"),
    ]
    assert all(base.startswith(line[-2]) for line in lines)
    # The weights alone, as everybody else who names them, have none.
    assert "adapters" not in report(learnt / "model.b158", capsys)


def test_a_folder_of_weights_alone_is_a_model_too(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (learnt / "config.json").unlink()
    found = report(learnt, capsys)
    assert found["file"]["path"] == str(learnt / "model.b158")
    assert [adapter["verdict"] for adapter in found["adapters"]] == ["holds", "holds"]
    assert main(["inspect", str(learnt), "--verify"]) == 0
    assert "every digest agrees" in capsys.readouterr().out
    shutil.rmtree(learnt / "adapters")
    assert report(learnt, capsys)["adapters"] == []


def test_what_the_model_would_refuse_is_told_and_hides_nothing(
    learnt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = learnt / "adapters"
    tone = read_adapter(here / "001-tone.cza")
    (here / "000-cut.cza").write_bytes(tone.path.read_bytes()[:40])
    shutil.copyfile(tone.path, here / "003-again.cza")
    forged(tone, here / "004-latent.cza", method="mezo")
    forged(tone, here / "005-foreign.cza", base="ab" * 32)
    forged(tone, here / "006-\x1b[31mred.cza", method="\x1b[31m")
    rows = report(learnt, capsys)["adapters"]
    assert [(row["verdict"], row["method"]) for row in rows] == [
        ("refused", None),
        ("holds", "scales"),
        ("holds", "state"),
        ("refused", "scales"),
        ("refused", "mezo"),
        ("refused", "scales"),
        ("refused", "\x1b[31m"),
    ]
    said = ("no adapter yet", "", "", "is the same adapter as", "moves no packed", "learnt on the model", "")
    assert all(words in row["note"] for words, row in zip(said, rows, strict=True))
    assert main(["inspect", str(learnt)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "006-\\x1b[31mred.cza" in shown
    shutil.copyfile(make_other(tmp_path / "other") / "model.b158", learnt / "model.b158")
    assert {row["verdict"] for row in report(learnt, capsys)["adapters"]} == {"refused"}
    (learnt / "model.b158").unlink()
    row = report(learnt, capsys)["adapters"][1]
    assert (row["verdict"], "expected one .b158 file" in row["note"]) == ("not compared", True)
