"""A run that diverges says where, and keeps what it had."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from chimera.train.divergence import REPORT_NAME, Diverged, largest_gradients, stop_diverged
from configs.errors import EXIT_FAILED


def model() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    for scale, parameter in enumerate(module.parameters()):
        parameter.grad = torch.full_like(parameter, float(scale))
    return module


def test_the_report_names_step_rate_place_and_the_worst_gradients(tmp_path: Path):
    module = model()
    grad = module[0].weight.grad
    assert grad is not None
    grad[0, 0], grad[0, 1] = math.nan, math.inf
    with torch.no_grad():
        module[1].bias[0] = math.nan
    with pytest.raises(Diverged, match="stopped at step 17: the loss is nan") as caught:
        stop_diverged(
            module,
            folder=tmp_path,
            step=17,
            loss=math.nan,
            grad_norm=math.nan,
            rate=3e-4,
            position={"batch": 136},
            terms={"balance": math.inf},
        )
    assert caught.value.exit_code == EXIT_FAILED
    assert str(tmp_path / REPORT_NAME) in str(caught.value)
    report = json.loads((tmp_path / REPORT_NAME).read_text())
    assert (report["step"], report["learning_rate"], report["data_position"]) == (17, 3e-4, {"batch": 136})
    assert (report["loss"], report["terms"]) == ("nan", {"balance": "inf"})
    assert report["weights_not_finite"] == ["1.bias"]
    worst, second = report["gradients"][:2]
    assert (worst["parameter"], worst["not_finite"], worst["numbers"]) == ("0.weight", 2, 16)
    assert (second["parameter"], second["norm"]) == ("2.weight", 8.0)


def test_a_gradient_without_end_is_told_apart_from_a_loss_without_end(tmp_path: Path):
    with pytest.raises(Diverged, match="the gradient norm is inf"):
        stop_diverged(model(), folder=tmp_path, step=1, loss=2.0, grad_norm=math.inf, rate=0.1, position={})


def test_only_the_largest_are_listed_and_frozen_ones_are_not():
    module = model()
    module[2].bias.grad = None
    assert [row["parameter"] for row in largest_gradients(module, num_shown=2)] == ["2.weight", "1.weight"]
    assert len(largest_gradients(module)) == 5
