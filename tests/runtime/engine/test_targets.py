"""One hash for every CPU: the same bits from code made for others, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quant import cpu
from quant.layout_names import LAYOUTS
from tests.runtime.engine.digest import THREADS, digest_of, digest_of_thousand
from tests.runtime.engine.models import make_model

THOUSAND = "89146dc2541a6d45ce95fcdb1f7412eacb1d89cecd6e7edd386e588dd9d930f0"
"""What 1000 tokens of the shipped model give, on any CPU. A new model has a new one."""
VARIANT = "dense loop, output gates, sigmoid input gate"


def others() -> list[str]:
    """Targets other than this machine's own whose code it can run."""
    if cpu.target().architecture != "x86_64":
        return []
    machine = cpu.machine_features()
    names = ("x86-64", "x86-64-v2", "x86-64-v3")
    return [name for name in names if (cpu.named_features(name) or frozenset()) <= machine]


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
    assert found.split() == [*(digest_of(path) for path in models), *[THOUSAND] * len(THREADS)]


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", THREADS)
def test_this_machine_gives_the_bits_of_every_other(num_threads: int) -> None:
    assert digest_of_thousand(num_threads) == THOUSAND


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_of_the_weights_changes_a_bit(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setenv("CHIMERA_CPU", f"{cpu.allowed_forms()[0]}+{layout}")
    assert digest_of_thousand(2) == THOUSAND
