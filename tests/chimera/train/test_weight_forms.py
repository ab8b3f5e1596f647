"""Sherry and corrections in a run: λ and the gates follow the step's number, so a run that stops goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chimera.train import loop as training
from quant.qat.sherry import arenas_at, set_arenas
from tests.chimera.train.runs import STEPS, Data, learnt, run

FORMS: dict[str, Any] = {
    "quantization": {"sherry_mode": {"enabled": True}, "hgf_correction": {"enabled": True, "rank": 4}},
    "looping": {"enabled": False},
    "backbone": {"layer_pattern": "GD"},
    "num_hidden_layers": 2,
}


SHORT: dict[str, Any] = {"accumulate": 1, "seq_len": 16}


def gates_behind(out: Path, step: int) -> torch.Tensor:
    """All gates of a checkpoint."""
    values = load_file(next((out / "checkpoints").glob(f"step-*{step}.safetensors")))
    found = [value for name, value in values.items() if name.endswith("correction.gate") and "model" in name]
    return torch.cat(found)


def test_a_run_follows_the_course_and_goes_on(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[float | None] = []

    def recorded(module: torch.nn.Module, weight: float | None) -> None:
        seen.append(weight)
        set_arenas(module, weight)

    monkeypatch.setattr(training, "set_arenas", recorded)
    course = [arenas_at(step / STEPS) for step in range(STEPS)]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert run(whole, data.texts, changes=FORMS, save_every=1, keep=STEPS, **SHORT).complete
    assert seen == course
    gates = {step: gates_behind(whole, step) for step in range(STEPS - 2, STEPS + 1)}
    assert not torch.equal(gates[STEPS - 2], gates[STEPS - 1])
    assert torch.equal(gates[STEPS - 1], gates[STEPS]), "after 0.7 of a run they stand still"
    seen.clear()
    for limit in (1e-3, 1000.0):
        run(again, data.texts, changes=FORMS, resume=True, time_limit_s=limit, **SHORT)
    assert seen == course
    assert learnt(again) == learnt(whole)
