"""Sections `training` and `chronos`: how a model learns."""

from dataclasses import field
from typing import Annotated, Literal

from configs.schema.keys import QUANTITY, Key
from configs.schema.section import section

PhaseName = Literal["pretrain", "ctx_extend", "sft", "dpo", "orpo", "grpo", "distill"]
Schedule = Literal["cosine_warmup", "two_stage"]
ContextStage = tuple[int, Literal["main"]] | tuple[int, int, float]


@section
class Phase:
    """One stage of learning. A phase names the keys that it needs."""

    name: Annotated[PhaseName, Key("Which stage it is", "works")]
    tokens: Annotated[str | None, Key("Tokens to learn from", "works", unit="tokens", form=QUANTITY)] = None
    data: Annotated[str | tuple[str, ...] | None, Key("Names of data sets", "planned")] = None
    seq_len: Annotated[int | None, Key("Tokens of a sequence", "works", unit="tokens", low=1)] = None
    batch_tokens: Annotated[str | None, Key("Tokens of a step", "works", unit="tokens", form=QUANTITY)] = None
    optimizer: Annotated[Literal["AdamW"] | None, Key("Optimiser; there is one", "planned")] = None
    lr: Annotated[float | None, Key("Highest learning rate", "works", low=0.0)] = None
    schedule: Annotated[Schedule | None, Key("Course of the learning rate", "works")] = None
    warmup_steps: Annotated[int | None, Key("Steps up to the highest rate", "works", unit="steps", low=0)] = (
        None
    )
    weight_decay: Annotated[float | None, Key("Decay of matrices", "works", low=0.0)] = None
    grad_clip: Annotated[float | None, Key("Largest gradient norm", "works", low=0.0)] = None
    ternary: Annotated[
        Literal["native_qat_ste"] | None, Key("How ternary weights learn; there is one way", "planned")
    ] = None
    stages: Annotated[
        tuple[ContextStage, ...] | None,
        Key("Lengths to grow through: tokens, then `main` or steps and learning rate", "works"),
    ] = None
    epochs: Annotated[float | None, Key("Passes over the data", "works", unit="passes", low=0.0)] = None
    beta: Annotated[
        float | None, Key("Strength of the reference in preference learning", "planned", low=0.0)
    ] = None


@section
class DistillationInit:
    """Starting from a teacher instead of from noise."""

    enabled: Annotated[bool, Key("Start from a teacher", "planned")] = False
    method: Annotated[Literal["ARWKV_style"], Key("How", "planned")] = "ARWKV_style"
    teacher: Annotated[str, Key("Name of the teacher", "planned")] = ""
    tokens: Annotated[str, Key("Tokens to learn from it", "planned", unit="tokens", form=QUANTITY)] = "1B"


@section
class Training:
    """The stages of learning, in order."""

    phases: Annotated[tuple[Phase, ...], Key("Stages", "works")] = ()
    distillation_init: Annotated[DistillationInit, Key("Teacher", "planned")] = field(
        default_factory=DistillationInit
    )


@section
class Chronos:
    """Weights of the losses that keep experts balanced, local and foreseeable."""

    lambda_balance: Annotated[float, Key("Weight of the balance loss", "works", low=0.0)] = 5e-4
    lambda_temporal: Annotated[
        float, Key("Weight of the change of routing between tokens", "works", low=0.0)
    ] = 3e-3
    lambda_lookahead: Annotated[float, Key("Weight of the lookahead router's loss", "works", low=0.0)] = 0.1
    lambda_anchor: Annotated[
        float, Key("Weight of the tie of routing to that of the model begun with", "works", low=0.0)
    ] = 0.0
    expert_dropout: Annotated[
        float,
        Key("Share of experts masked in training, so that the fallback learns", "works", low=0.0, high=1.0),
    ] = 0.0
