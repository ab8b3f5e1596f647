"""Two workers that torchrun starts are one run: same losses, one folder, one answer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from chimera.train.carried import tensors_of
from chimera.train.workers import Workers, is_first_worker, joined
from tests.chimera.train.processes import ENVIRONMENT, ROOT, python
from tests.chimera.train.runs import Data, learnt, run, steps_of
from tests.chimera.train.steps import QUIET, fresh_step, rows_of_chance

TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--rdzv-backend=c10d",
    "--rdzv-endpoint=127.0.0.1:0",
    "--nproc-per-node=2",
)
SHAPE = ("--rows", "2", "--seq-len", "32", "--device", "cpu", "--no-compile", "--no-bf16", "--threads", "1")


def by_torchrun(out: Path, data: Data, config: Path, *more: str) -> dict[str, Any]:
    """The answer of `chimera train` by two workers."""
    verb = ("-m", "runtime.cli.main", "train", config, "--data", data.texts, "--out", out, "--json")
    command = [sys.executable, *TORCHRUN, *map(str, verb), *SHAPE, *more]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_workers_have_the_losses_of_one(data: Data, tmp_path: Path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"preset": "micro", **QUIET}))
    short = ("--steps", "3", "--accumulate", "2", "--lr", "2e-3", "--no-ternary", "--val", str(data.seen))
    wishes = {"steps": 3, "accumulate": 2, "lr": 2e-3, "ternary": False, "save_every": 500}
    outcome = run(tmp_path / "one", data.texts, changes=QUIET, validation=(data.seen,), **wishes)
    answer = by_torchrun(tmp_path / "two", data, config, *short)
    assert answer["step"] == outcome.step == 3
    one, two = (
        [record for record in steps_of(tmp_path / name) if "loss" in record] for name in ("one", "two")
    )
    assert [record["loss"] for record in two] == pytest.approx([record["loss"] for record in one], abs=1e-6)
    for name in ("step", "tokens", "rate", "bits_per_byte"):
        assert [record[name] for record in two] == pytest.approx([record[name] for record in one])
    assert [record["grad_norm"] for record in two] == pytest.approx(
        [record["grad_norm"] for record in one], rel=1e-4
    )
    assert outcome.validation is not None
    bits = answer["validation"]["bits_per_byte"]
    assert bits == pytest.approx(outcome.validation.bits_per_byte, abs=1e-5)


def test_two_workers_stop_and_go_on_with_the_states_that_they_carry(data: Data, tmp_path: Path):
    python("-m", "tests.chimera.train.two_workers", tmp_path, data.texts)
    assert len(steps_of(tmp_path / "whole")) == 4
    assert steps_of(tmp_path / "cut") == steps_of(tmp_path / "whole")
    assert learnt(tmp_path / "cut") == learnt(tmp_path / "whole")


def test_rows_of_all_workers_are_one_batch():
    """What one worker keeps of the rows of all is what it gave."""
    step = fresh_step()
    step.run([rows_of_chance(4, 8)], step=0, carry=True)
    assert step.state is not None
    for whole in tensors_of(step.state):
        parts = [Workers(rank=rank, count=2, device=torch.device("cpu")).own_rows(whole) for rank in (0, 1)]
        assert torch.equal(torch.cat(parts), whole)
        alone = Workers(rank=0, count=1, device=torch.device("cpu"))
        assert torch.equal(alone.own_rows(alone.all_rows(whole)), whole)


def test_alone_a_process_is_the_first_worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_first_worker()
    with joined(torch.device("cpu")) as workers:
        assert workers.is_first
        assert workers.any_says(True)
        assert workers.first_makes(lambda: 5) == 5
    monkeypatch.setenv("RANK", "3")
    assert not is_first_worker()
