"""Single steps of the smallest model on rows of chance, for tests that look inside a step."""

from collections.abc import Sequence
from typing import Any

import torch

from chimera.model import build
from chimera.train.groups import adamw, set_rates
from chimera.train.step import MicroBatch, StepOptions, TrainStep, prepare
from configs.load import build_config
from quant.qat.linear import set_quant_mix

QUIET: dict[str, Any] = {
    "looping": {"depth_selection": "fixed"},
    "chronos": {"lambda_balance": 0.0, "lambda_temporal": 0.0, "lambda_lookahead": 0.0},
}
"""Changes to a config after which a step is cross-entropy alone, with the same rounds for all."""


def fresh_step(
    changes: dict[str, Any] | None = None,
    *,
    ternary: bool = True,
    grad_clip: float | None = 1.0,
    seed: int = 0,
    rate: float = 1e-3,
    device: str = "cpu",
    compiled: bool = False,
    options: StepOptions | None = None,
) -> TrainStep:
    """The step of a new model, always the same one."""
    torch.manual_seed(0)
    model = build(build_config({"preset": "micro", **(changes or {})}, source="test")).to(device).train()
    if not ternary:
        # Without rounding to codes, a sum in another order stays a small difference.
        set_quant_mix(model, 0.0)
    optimizer = adamw(model, weight_decay=0.1)
    set_rates(optimizer.param_groups, rate=rate, decay=0.1)
    options = options or StepOptions()
    prepare(model, compile=compiled, checkpointing=options.checkpointing)
    return TrainStep(model, optimizer, grad_clip=grad_clip, seed=seed, options=options)


def rows_of_chance(rows: int, num_tokens: int, *, seed: int = 0, borders: bool = True) -> MicroBatch:
    """Rows of random words, some without a label, in documents of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 512, (rows, num_tokens + 1), generator=generator)
    labels = words[:, 1:].clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = -100
    resets = torch.rand(labels.shape, generator=generator) < (0.1 if borders else 0.0)
    resets[:, 0] = True
    return batch_of(words[:, :-1], labels, resets)


def batch_of(ids: torch.Tensor, labels: torch.Tensor, resets: torch.Tensor | None) -> MicroBatch:
    num_labels = int((labels != -100).sum())
    return MicroBatch(ids, labels, resets, ids.shape[1] + 1, num_labels, 3 * num_labels)


def cut_rows(batch: MicroBatch, sizes: Sequence[int]) -> list[MicroBatch]:
    """The rows of a batch in several."""
    parts = [tensor.split(list(sizes)) for tensor in batch[:3] if tensor is not None]
    return [batch_of(*part) for part in zip(*parts, strict=True)]


def cut_tokens(batch: MicroBatch, size: int) -> list[MicroBatch]:
    """The same rows, some tokens at a time."""
    parts = [tensor.split(size, dim=1) for tensor in batch[:3] if tensor is not None]
    return [batch_of(*part) for part in zip(*parts, strict=True)]


def grads_of(step: TrainStep) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in step.model.named_parameters() if p.grad is not None}


def weights_of(step: TrainStep) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal, bit for bit."""
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())
