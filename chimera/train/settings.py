"""How one run trains: a phase of the config, the config's switches and the caller's wishes, made explicit.

`settings_of` decides everything that can be decided before the data is there; `TrainSettings.num_steps` and
`TrainSettings.course` answer once it is. Where a wish of the config gives way to the machine or to the length
of the run, a note says so, for the screen.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chimera.train.geometry import Geometry, geometry_of
from chimera.train.machine import bfloat16_pays, device_of, physical_cores
from chimera.train.phases import Stage, phase_of, stages_of, tokens_of
from chimera.train.schedule import Chain, Course, Schedule, ScheduleKind
from configs.errors import UsageError
from configs.schema.model import ModelConfig
from configs.schema.training import PhaseName

WARMUP_SHARE = 0.1
"""A warm-up that nobody asked for on the command line takes no more of a run than this."""

MAY_CHANGE = ("save_every", "keep", "validate_every")
"""Settings that a run may go on with other values of: they change nothing that is learnt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the caller asks for; None leaves it to the config."""

    seq_len: int | None = None
    rows: int | None = None
    accumulate: int | None = None
    batch_tokens: int | None = None
    tokens: int | None = None
    steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    schedule: ScheduleKind | None = None
    warmup: int | None = None
    weight_decay: float | None = None
    decay_embedding: bool | None = None
    clip: float | None = None
    ternary: bool | None = None
    device: str | None = None
    bf16: bool | None = None
    compile: bool | None = None
    checkpointing: bool | None = None
    threads: int | None = None
    seed: int | None = None
    save_every: int | None = None
    keep: int | None = None
    validate_every: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Everything that decides a run, beside its config and its data."""

    phase: PhaseName
    stages: tuple[Stage, ...]
    geometry: Geometry
    tokens: int | None
    steps: int | None
    epochs: float | None
    """At most one of these three is given; none, where the stages count their own steps."""
    schedule: ScheduleKind
    warmup_steps: int
    warmup_is_asked: bool
    """Whether the caller named the warm-up, so that a short run does not cut it."""
    weight_decay: float
    decay_embedding: bool
    grad_clip: float | None
    """The largest norm of a step's gradient; None leaves it as it is."""
    answers_only: bool
    """Whether only a chat's answers have a loss."""
    ternary: bool
    """Whether weights and activations are quantised; a twin in full precision is trained without."""
    device: str
    bf16: bool
    compile: bool
    checkpointing: bool
    threads: int | None
    """Threads of the CPU; None leaves them to PyTorch."""
    seed: int
    save_every: int
    """Steps between two checkpoints."""
    keep: int
    validate_every: int
    """Steps between two looks at the validation data; 0 looks at the end alone."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_numbers(self)

    @property
    def carries(self) -> bool:
        """Whether any stage carries state from step to step."""
        return any(stage.carries for stage in self.stages)

    def stage_steps(self, *, batches_per_epoch: int) -> tuple[int, ...]:
        """Optimiser steps of each stage. `batches_per_epoch` counts batches of `geometry.rows` rows."""
        own = [stage.num_steps for stage in self.stages]
        total = self._asked_steps(batches_per_epoch)
        if total is None:
            assert all(own), "a stage without steps in a phase without a length"
            return tuple(steps for steps in own if steps is not None)
        if len(own) == 1:
            return (total,)
        # The stages keep their shares of a run that is made shorter or longer.
        weight = sum(steps or 1 for steps in own)
        return tuple(max(1, round(total * (steps or 1) / weight)) for steps in own)

    def num_steps(self, *, batches_per_epoch: int) -> int:
        """Optimiser steps of the run."""
        return sum(self.stage_steps(batches_per_epoch=batches_per_epoch))

    def course(self, *, batches_per_epoch: int) -> Course:
        """Learning rate and decay of each step."""
        links = [
            Schedule(
                kind=self.schedule,
                peak=stage.lr,
                num_steps=num_steps,
                warmup_steps=self.warmup_of(num_steps),
                weight_decay=self.weight_decay,
            )
            for stage, num_steps in zip(
                self.stages, self.stage_steps(batches_per_epoch=batches_per_epoch), strict=True
            )
        ]
        return links[0] if len(links) == 1 else Chain(links=tuple(links))

    def warmup_of(self, num_steps: int) -> int:
        """Steps of warm-up in a stage of `num_steps`."""
        if self.warmup_is_asked:
            return self.warmup_steps
        return min(self.warmup_steps, int(num_steps * WARMUP_SHARE))

    def as_json(self) -> dict[str, Any]:
        """The settings by name, as a run's folder keeps and compares them; notes decide nothing."""
        values = dataclasses.asdict(self)
        del values["notes"]
        return values

    def _asked_steps(self, batches_per_epoch: int) -> int | None:
        if self.steps is not None:
            return self.steps
        if self.tokens is not None:
            return max(1, round(self.tokens / self.geometry.step_tokens))
        if self.epochs is not None:
            return max(1, round(self.epochs * batches_per_epoch / self.geometry.accumulate))
        return None


def settings_of(
    config: ModelConfig, *, phase: PhaseName = "pretrain", wishes: Wishes | None = None
) -> TrainSettings:
    """The settings of a phase: what the caller wishes, else what the config says, else the defaults."""
    wishes = wishes or Wishes()
    given = phase_of(config, phase)
    notes = _not_taken_up(config)
    device = device_of(wishes.device)
    stages = stages_of(given, seq_len=wishes.seq_len, lr=wishes.lr)
    _check_lengths(config, stages)
    geometry = geometry_of(
        seq_len=max(stage.seq_len for stage in stages),
        batch_tokens=wishes.batch_tokens,
        config_tokens=tokens_of(given.batch_tokens),
        rows=wishes.rows,
        accumulate=_accumulate(wishes, stages),
        device=device,
    )
    tokens, steps, epochs = _length(
        wishes, tokens=tokens_of(given.tokens), epochs=given.epochs, stages=stages
    )
    switches = config.ternary_compute.implemented_optimizations
    assert given.schedule is not None
    assert given.warmup_steps is not None
    assert given.weight_decay is not None
    assert given.grad_clip is not None
    clip = _or(wishes.clip, given.grad_clip)
    return TrainSettings(
        phase=phase,
        stages=stages,
        geometry=geometry,
        tokens=tokens,
        steps=steps,
        epochs=epochs,
        schedule=_or(wishes.schedule, given.schedule),
        warmup_steps=_or(wishes.warmup, given.warmup_steps),
        warmup_is_asked=wishes.warmup is not None,
        weight_decay=_or(wishes.weight_decay, given.weight_decay),
        decay_embedding=_or(wishes.decay_embedding, False),
        grad_clip=clip if clip > 0 else None,
        answers_only=phase == "sft",
        ternary=_or(wishes.ternary, True),
        device=str(device),
        bf16=_bf16(config, wishes, device, notes),
        compile=_or(wishes.compile, switches.torch_compile.on),
        checkpointing=_or(wishes.checkpointing, switches.gradient_checkpointing.on),
        threads=_or(wishes.threads, physical_cores() if switches.cpu_thread_tuning.on else None),
        seed=_or(wishes.seed, 0),
        save_every=_or(wishes.save_every, 500),
        keep=_or(wishes.keep, 2),
        validate_every=_or(wishes.validate_every, 500),
        notes=tuple(notes),
    )


def _or(wish: Any, otherwise: Any) -> Any:
    return otherwise if wish is None else wish


def _length(
    wishes: Wishes, *, tokens: int | None, epochs: float | None, stages: Sequence[Stage]
) -> tuple[int | None, int | None, float | None]:
    """Tokens, steps and passes over the data: the one that is asked for, or the config's, or one pass."""
    asked = {
        name: value for name in ("tokens", "steps", "epochs") if (value := getattr(wishes, name)) is not None
    }
    if len(asked) > 1:
        given = " and ".join(f"--{name} {value:g}" for name, value in asked.items())
        raise UsageError(
            f"{given} each say how long to train",
            hint="Give one of --tokens, --steps and --epochs.",
        )
    if asked:
        return wishes.tokens, wishes.steps, wishes.epochs
    if tokens is not None:
        return tokens, None, None
    if epochs is not None:
        return None, None, epochs
    counted = all(stage.num_steps is not None for stage in stages)
    return None, None, None if counted else 1.0


def _accumulate(wishes: Wishes, stages: Sequence[Stage]) -> int | None:
    """Batches of an update: one, where rows carry their state on, since each batch needs the one before."""
    if not any(stage.carries for stage in stages):
        return wishes.accumulate
    if wishes.accumulate is not None and wishes.accumulate != 1:
        raise UsageError(
            f"--accumulate {wishes.accumulate} in a phase that carries states from step to step",
            hint="Leave it out, and choose --rows for the memory that there is.",
        )
    return 1


def _bf16(config: ModelConfig, wishes: Wishes, device: torch.device, notes: list[str]) -> bool:
    """Whether products are bfloat16: as asked, else as the config says where the machine has them."""
    if wishes.bf16 is not None:
        return wishes.bf16
    if not config.ternary_compute.implemented_optimizations.bf16_autocast.on:
        return False
    if config.torch_dtype != "bfloat16":
        if config.torch_dtype == "float16":
            notes.append("torch_dtype is float16, which needs a scaled loss: products stay float32")
        return False
    if not bfloat16_pays(device):
        notes.append(f"this {device.type.upper()} has no bfloat16 products: they stay float32")
        return False
    return True


def _not_taken_up(config: ModelConfig) -> list[str]:
    """What the config asks of training and is not built; what is done in any case is no news."""
    switches = config.ternary_compute.implemented_optimizations
    asked = {
        "ipex_integration": switches.ipex_integration.on,
        "zero_multiply_forward": switches.zero_multiply_forward.on,
        "sparse_grad_w_masking": switches.sparse_grad_w_masking.on,
        "training.distillation_init": config.training.distillation_init.enabled,
    }
    names = ", ".join(name for name, on in asked.items() if on)
    return [f"the config asks for what training does not do yet: {names}"] if names else []


def _check_lengths(config: ModelConfig, stages: Sequence[Stage]) -> None:
    longest = max(stage.length for stage in stages)
    if longest > config.max_position_embeddings:
        raise UsageError(
            f"rows of {longest} tokens, but max_position_embeddings allows {config.max_position_embeddings}",
            hint="Train on shorter rows, or raise that key of the config.",
        )


def _check_numbers(settings: TrainSettings) -> None:
    low: dict[str, tuple[float | None, float]] = {
        "--tokens": (settings.tokens, 1),
        "--steps": (settings.steps, 1),
        "--warmup": (settings.warmup_steps, 0),
        "--weight-decay": (settings.weight_decay, 0),
        "--lr": (min(stage.lr for stage in settings.stages), 0),
        "--seq-len": (min(stage.seq_len for stage in settings.stages), 1),
        "--threads": (settings.threads, 1),
        "--save-every": (settings.save_every, 1),
        "--keep": (settings.keep, 1),
        "--validate-every": (settings.validate_every, 0),
    }
    for name, (value, least) in low.items():
        # Written so that a number which is not one is refused too.
        if value is not None and not least <= value < float("inf"):
            raise UsageError(f"{name} {value:g}; allowed are numbers from {least:g} on")
    if settings.epochs is not None and not 0 < settings.epochs < float("inf"):
        raise UsageError(f"--epochs {settings.epochs:g}; allowed are numbers above 0")
    if settings.grad_clip is not None and not settings.grad_clip < float("inf"):
        raise UsageError(f"--clip {settings.grad_clip:g}; allowed are numbers from 0 on, 0 for no clipping")
    if not 0 <= settings.seed < 2**63:
        raise UsageError(f"--seed {settings.seed}; allowed are whole numbers from 0 to 2^63 − 1")
