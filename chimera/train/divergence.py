"""The end of a run whose loss or gradient is no number: a report of what was seen, and an error."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from configs.errors import ChimeraError
from quant.atomic import atomic_file

REPORT_NAME = "stopped.json"
NUM_SHOWN = 20


class Diverged(ChimeraError):
    """Training stopped because a number was none."""


def stop_diverged(
    model: nn.Module,
    *,
    folder: Path,
    step: int,  # steps that were done before this one
    loss: float,
    grad_norm: float,
    rate: float,
    position: Mapping[str, Any],  # where in the data the step was
    terms: Mapping[str, float] | None = None,
) -> NoReturn:
    """Write the report of a step that was not applied, and stop. The gradients are those of the step."""
    what = f"the gradient norm is {grad_norm}" if math.isfinite(loss) else f"the loss is {loss}"
    report = {
        "step": step,
        "what": what,
        "loss": str(loss),
        "grad_norm": str(grad_norm),
        "terms": {name: str(value) for name, value in (terms or {}).items()},
        "learning_rate": rate,
        "data_position": dict(position),
        "gradients": largest_gradients(model),
        "weights_not_finite": [name for name, weight in model.named_parameters() if _bad_numbers(weight)],
    }
    path = folder / REPORT_NAME
    with atomic_file(path) as file:
        file.write(json.dumps(report, indent=2, allow_nan=False).encode() + b"\n")
    raise Diverged(
        f"training stopped at step {step}: {what}; the step was not applied, and {path} says what was seen",
        hint="Checkpoints hold only steps before it. Begin again with a lower --lr or a longer --warmup.",
    )


def largest_gradients(model: nn.Module, *, num_shown: int = NUM_SHOWN) -> list[dict[str, Any]]:
    """The parameters with the most numbers that are none in their gradients, then with the largest norms."""
    rows: list[tuple[int, float, dict[str, Any]]] = []
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is None:
            continue
        bad = _bad_numbers(grad)
        # What is left of a gradient without its bad numbers still says how large the others were.
        finite = torch.nan_to_num(grad.detach().double(), nan=0.0, posinf=0.0, neginf=0.0)
        norm, largest = finite.norm().item(), finite.abs().amax().item()
        row = {
            "parameter": name,
            "not_finite": bad,
            "numbers": grad.numel(),
            "norm": norm,
            "largest": largest,
        }
        rows.append((bad, norm, row))
    rows.sort(key=lambda entry: entry[:2], reverse=True)
    return [row for _, _, row in rows[:num_shown]]


def _bad_numbers(values: Tensor) -> int:
    return int((~values.detach().isfinite()).sum())
