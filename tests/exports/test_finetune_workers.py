"""Workers that share a fine-tuning come to the bytes of one alone, whoever dies and whoever joins."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch._C._distributed_c10d import HashStore

from chimera.finetune.store import StoreExchange
from configs.errors import ChimeraError
from exports.mezo import prepare
from runtime.finetune.method import MethodOptions
from runtime.random_model import random_b158
from tests.chimera.finetune.models import config
from tests.exports.finetune_worker import SEED, take_part

STEPS = 5
LONG_S = 240.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.b158"
    random_b158(config(), path, seed=1)
    return path


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The log of a run that nobody shares."""
    path = tmp_path_factory.mktemp("alone") / "log.cza"
    take_part(prepare(MethodOptions(model=model, seed=SEED)), path, steps=STEPS)
    return path.read_bytes()


@contextmanager
def worker(model: Path, log: Path, where: str, *how: str) -> Iterator[subprocess.Popen[str]]:
    """A worker's process; it does not outlive its test."""
    command = [sys.executable, "-m", "tests.exports.finetune_worker", str(model), str(log), where, str(STEPS)]
    process = subprocess.Popen([*command, *how], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def port_of(process: subprocess.Popen[str]) -> str:
    """Where the others have to go."""
    assert process.stdout is not None
    return f"127.0.0.1:{process.stdout.readline().strip()}"


def units_of(process: subprocess.Popen[str]) -> int:
    """How many units a worker computed, once it has ended well."""
    out, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == 0
    return int(out.split()[-1])


@pytest.mark.slow
def test_a_worker_that_is_killed_and_one_that_comes_late_change_nothing(
    model: Path, alone: bytes, tmp_path: Path
):
    logs = [tmp_path / f"{name}.cza" for name in ("first", "killed", "late")]
    # The first one waits in the middle of its work until a third has come.
    with worker(model, logs[0], ":0", "await", "3", "40") as first:
        where = port_of(first)
        with worker(model, logs[1], where, "die", "9") as killed:
            assert killed.wait(timeout=LONG_S) == -signal.SIGKILL
        with worker(model, logs[2], where) as late:
            assert units_of(late) > 0
            assert units_of(first) > 0
    assert logs[0].read_bytes() == logs[2].read_bytes() == alone


def test_workers_that_were_stopped_go_on_from_their_own_logs(model: Path, alone: bytes, tmp_path: Path):
    record_bytes = (len(alone) - header_bytes(alone)) // STEPS
    logs = {tmp_path / "whole.cza": -2 * record_bytes, tmp_path / "torn.cza": -4 * record_bytes - 5}
    store = HashStore()

    def go_on(log: Path) -> int:
        log.write_bytes(alone[: logs[log]])
        exchange = StoreExchange(store, run="test", holds_store=False)
        method = prepare(MethodOptions(model=model, seed=SEED))
        take_part(method, log, steps=STEPS, exchange=exchange)
        return exchange.traffic.units

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(go_on, logs)) > 0
    assert [log.read_bytes() for log in logs] == [alone, alone]


def test_workers_with_other_data_are_told(model: Path, tmp_path: Path):
    store = HashStore()
    exchange = StoreExchange(store, run="test", holds_store=False)
    exchange.end(0, b"something else")
    method = prepare(MethodOptions(model=model, seed=SEED))
    with pytest.raises(ChimeraError, match="are no record of a run"):
        take_part(method, tmp_path / "log.cza", steps=1, exchange=exchange)
    with pytest.raises(ChimeraError, match="another result than the others"):
        exchange.end(0, b"of ours")


def header_bytes(log: bytes) -> int:
    """Where a log's records begin."""
    return 16 + int.from_bytes(log[8:12], "little")
