"""The examples work as they stand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli.main import main
from tests.house.files import ROOT, repository_files

EXAMPLES = [path for path in repository_files() if path.parts[0] == "examples"]


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.suffix == ".json"], ids=str)
def test_an_example_config_is_a_model(path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", str(ROOT / path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.suffix == ".py"], ids=str)
def test_an_example_program_runs(path: Path):
    command = [sys.executable, "-W", "error", str(path)]
    environment = {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_no_example_goes_untried():
    assert {path.suffix for path in EXAMPLES} == {".json", ".py"}
