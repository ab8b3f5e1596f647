"""One set of data for all runs, and one run that was never interrupted."""

from pathlib import Path

import pytest

from tests.chimera.train.runs import Data, made_data, run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return made_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def whole(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from its first step to its last."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out, data.texts)
    return out
