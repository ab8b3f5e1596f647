"""Models that the tests of the engine share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.engine import Engine
from tests.runtime.engine.models import make_model


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed micro model."""
    return make_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def engine(micro: Path) -> Iterator[Engine]:
    """Two threads on the micro model."""
    with Engine.open(micro, num_threads=2) as opened:
        yield opened
