"""One model for all of these tests; whoever changes a folder takes a copy."""

from pathlib import Path

import pytest

from tests.runtime.finetune.learning import make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("finetune"))
