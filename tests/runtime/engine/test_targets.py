"""One hash for every CPU: the same bits from code made for others, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quant import cpu
from tests.runtime.engine.digest import digest_of
from tests.runtime.engine.models import make_model

VARIANT = "dense loop, output gates, sigmoid input gate"


def others() -> list[str]:
    """Targets other than this machine's own whose code it can run."""
    if cpu.target().architecture != "x86_64":
        return []
    machine = cpu.machine_features()
    return [name for name in ("x86-64", "haswell") if (cpu.named_features(name) or frozenset()) <= machine]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_model(tmp_path_factory.mktemp("one")), make_model(tmp_path_factory.mktemp("other"), VARIANT)


@pytest.mark.slow
@pytest.mark.parametrize("target", others())
def test_a_target_gives_the_bits_of_this_machine(models: tuple[Path, Path], target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    environment.pop("CHIMERA_CPU", None)
    environment |= {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "tests.runtime.engine.digest", *map(str, models)]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert found.split() == [digest_of(path) for path in models]
