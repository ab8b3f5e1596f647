"""`chimera plan --finetune`: what teaching a model takes is foretold, and what cannot be is refused."""

import json
from pathlib import Path

import pytest

from runtime.cli.main import main
from tests.runtime.finetune.learning import chimera, make

WITHIN = 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("plan"))


@pytest.mark.parametrize("method", ["scales", "state"])
def test_the_peak_is_foretold(folder: Path, tmp_path: Path, method: str) -> None:
    """Both are processes of their own, as what was loaded before counts as well."""
    given = ["-m", folder / "model", "--data", folder / "data.jsonl", "--steps", 2, "--batch", 12]
    ran = chimera("finetune", *given, "--method", method, "--out", tmp_path / "a.cza", "--json")
    out, err = ran.communicate()
    assert (ran.returncode, err) == (0, "")
    peak = json.loads(out)["peak_bytes"]
    planned = chimera("plan", folder / "model", "--finetune", method, "--json")
    out, err = planned.communicate()
    assert (planned.returncode, err) == (0, "")
    assert json.loads(out)["needed_bytes"] == pytest.approx(peak, rel=WITHIN)


def test_a_preset_can_be_planned_for_and_wrong_wishes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "micro", "--finetune", "scales"]) == 0
    assert "to teach micro by scales" in capsys.readouterr().out
    for arguments, words in (
        (["--finetune", "mezo"], "'mezo' is not planned"),
        (["--finetune", "scales", "--longest", "1"], "sequences of 1 tokens"),
    ):
        assert main(["plan", "micro", *arguments]) == 2
        assert words in capsys.readouterr().err
