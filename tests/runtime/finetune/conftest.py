"""One model for all of these tests; whoever changes a folder takes a copy."""

from pathlib import Path

import pytest

from runtime.cli.main import main
from tests.runtime.finetune.learning import Finetune, make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("finetune"))


@pytest.fixture
def finetune(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Finetune:
    """The command with this model and data, and its code, answer and complaint."""

    def run(
        *arguments: object, out: str = "a.cza", verb: str = "finetune", **_: object
    ) -> tuple[int, str, str]:
        given = ["-m", folder / "model", "--data", folder / "data.jsonl", "-t", 1]
        target = [] if "--resume" in arguments or verb != "finetune" else ["--out", tmp_path / out]
        words = [verb, *(given if verb == "finetune" else []), *target, *arguments]
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run
