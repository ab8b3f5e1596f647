"""The stages of learning that `chimera train` knows, and what a config says of each.

A phase takes its keys from the config's phase of that name, then from the table below, which is meant for
models of ten to some hundred million parameters on one machine. What neither says of a later phase is as in
`pretrain`, if phases share that key.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import UsageError
from configs.schema.keys import parse_quantity
from configs.schema.model import ModelConfig
from configs.schema.training import Phase, PhaseName

DEFAULTS: Mapping[PhaseName, Phase] = {
    "pretrain": Phase(
        name="pretrain",
        seq_len=1024,
        batch_tokens="65536",
        optimizer="AdamW",
        lr=1e-3,
        schedule="cosine_warmup",
        warmup_steps=500,
        weight_decay=0.1,
        grad_clip=1.0,
        ternary="native_qat_ste",
    ),
    "ctx_extend": Phase(
        name="ctx_extend",
        stages=((1024, "main"), (4096, 1000, 1e-4), (16384, 500, 5e-5)),
        warmup_steps=50,
    ),
    "sft": Phase(name="sft", epochs=3, lr=2e-5, warmup_steps=50, batch_tokens="65536"),
}
"""What a phase is where neither the config nor the command line says it."""

SHARED = ("seq_len", "batch_tokens", "optimizer", "schedule", "weight_decay", "grad_clip", "ternary")
"""Keys of `pretrain` that later phases go by too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A run of steps at one length and one highest rate."""

    seq_len: int
    """Tokens of a row: what a step goes back through."""
    length: int
    """Tokens over which a row carries its state on, detached between steps; `seq_len` where it does not."""
    lr: float
    num_steps: int | None = None
    """None where tokens or passes over the data decide."""

    @property
    def carries(self) -> bool:
        """Whether a row goes on where the step before ended."""
        return self.length > self.seq_len


def phase_of(config: ModelConfig, name: PhaseName) -> Phase:
    """A phase with every key that it needs."""
    if name not in DEFAULTS:
        raise UsageError(
            f"the phase {name!r} is not one that `chimera train` runs",
            hint=f"Allowed are {', '.join(DEFAULTS)}.",
        )
    layers = [_named(config, name), DEFAULTS[name]]
    if name != "pretrain":
        layers += [_only(phase, SHARED) for phase in (_named(config, "pretrain"), DEFAULTS["pretrain"])]
    values: dict[str, Any] = {
        field.name: next(
            (value for layer in layers if (value := getattr(layer, field.name)) is not None), None
        )
        for field in dataclasses.fields(Phase)
    }
    if layers[0].stages is not None or layers[0].epochs is not None or layers[0].tokens is not None:
        # A config that says how long a phase is says it whole: no other measure of length is added to it.
        values |= {"tokens": layers[0].tokens, "epochs": layers[0].epochs, "stages": layers[0].stages}
    return Phase(**values)


def stages_of(phase: Phase, *, seq_len: int | None = None, lr: float | None = None) -> tuple[Stage, ...]:
    """The stages that a phase goes through; one, unless it grows through lengths.

    The length marked `main` is the one that the model was trained at: it is the length of a row in all
    stages, and a longer one is gone through in several steps that carry the state.
    """
    if phase.stages is None:
        assert phase.seq_len is not None
        assert phase.lr is not None
        row = phase.seq_len if seq_len is None else seq_len
        return (Stage(seq_len=row, length=row, lr=phase.lr if lr is None else lr),)
    marked = [stage[0] for stage in phase.stages if stage[1] == "main"]
    row = seq_len if seq_len is not None else marked[0] if marked else phase.seq_len
    assert row is not None
    if row < 1:
        raise UsageError(f"rows of {row} tokens; allowed are whole numbers from 1 on")
    stages: list[Stage] = []
    for stage in phase.stages:
        if len(stage) == 3:
            length, num_steps, rate = stage
            if length < 1 or num_steps < 1 or rate < 0:
                raise UsageError(
                    f"the stage {list(stage)} of the phase {phase.name!r} cannot be run",
                    hint="A stage is [tokens, steps, learning rate], the first two from 1 on.",
                )
            stages.append(
                Stage(
                    seq_len=min(row, length),
                    length=length,
                    lr=rate if lr is None else lr,
                    num_steps=num_steps,
                )
            )
    if not stages:
        raise UsageError(
            f"the phase {phase.name!r} names no stage to go through",
            hint='Give at least one [tokens, steps, learning rate] beside the one marked "main".',
        )
    return tuple(stages)


def tokens_of(quantity: str | None) -> int | None:
    """The whole number that a quantity such as 4M stands for."""
    return None if quantity is None else round(parse_quantity(quantity))


def _named(config: ModelConfig, name: PhaseName) -> Phase:
    """The config's phase of a name, or one that says nothing."""
    found = [phase for phase in config.training.phases if phase.name == name]
    if len(found) > 1:
        raise UsageError(
            f"training.phases names {len(found)} phases {name!r}", hint="Keep one of each in the config."
        )
    return found[0] if found else Phase(name=name)


def _only(phase: Phase, names: tuple[str, ...]) -> Phase:
    return Phase(name=phase.name, **{name: getattr(phase, name) for name in names})
