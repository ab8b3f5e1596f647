"""Keys of a config that act when a model is trained: each changes the settings of a run, or refuses it."""

from pathlib import Path
from typing import Any

import pytest

from chimera.train import meter
from chimera.train import settings as settings_module
from chimera.train.flops import training_flops
from chimera.train.log import read_log
from chimera.train.settings import TrainSettings, Wishes, settings_of
from configs.errors import UsageError
from configs.load import build_config
from configs.schema.model import ModelConfig
from configs.schema.training import PhaseName
from tests.chimera.train.runs import Data, run

PHASES: list[dict[str, Any]] = [
    {
        "name": "pretrain",
        "tokens": "2M",
        "seq_len": 256,
        "batch_tokens": "4K",
        "lr": 3e-4,
        "schedule": "cosine_warmup",
        "warmup_steps": 20,
        "weight_decay": 0.1,
        "grad_clip": 1.0,
    },
    {"name": "ctx_extend", "stages": [[256, "main"], [1024, 100, 1e-5]]},
    {"name": "sft", "epochs": 2, "lr": 4e-5},
]
BASE: dict[str, Any] = {"preset": "micro", "training": {"phases": PHASES}}

PHASE_KEYS: dict[str, tuple[int, PhaseName, Any]] = {
    "tokens": (0, "pretrain", "3M"),
    "seq_len": (0, "pretrain", 128),
    "batch_tokens": (0, "pretrain", "8K"),
    "lr": (2, "sft", 1e-5),
    "schedule": (0, "pretrain", "two_stage"),
    "warmup_steps": (0, "pretrain", 10),
    "weight_decay": (0, "pretrain", 0.0),
    "grad_clip": (0, "pretrain", 0.5),
    "stages": (1, "ctx_extend", [[256, "main"], [2048, 100, 1e-5]]),
    "epochs": (2, "sft", 1),
    "name": (2, "sft", "orpo"),
}
"""Key of a phase → which phase, what is trained, another value."""

SWITCHES: dict[str, str] = {
    "bf16_autocast": "bf16",
    "torch_compile": "compile",
    "gradient_checkpointing": "checkpointing",
    "cpu_thread_tuning": "threads",
}
"""Key of P3_ternary_compute.implemented_optimizations → the setting that it decides."""

OTHERS = (
    "torch_dtype",
    "max_position_embeddings",
    "diagnostics.thresholds.max_moe_imbalance",
    "chronos.lambda_anchor",
)
"""Keys with a test of their own: below, and the anchor's among those of whole runs."""


def config(**changes: Any) -> ModelConfig:
    return build_config({**BASE, **changes}, source="test")


def switched(**on: bool) -> dict[str, Any]:
    statuses = {name: {"status": "IMPLEMENTED" if is_on else "OFF"} for name, is_on in on.items()}
    return {"P3_ternary_compute": {"implemented_optimizations": statuses}}


def settings(one: ModelConfig, *, phase: PhaseName = "pretrain") -> TrainSettings:
    return settings_of(one, phase=phase, wishes=Wishes(device="cpu"))


@pytest.fixture
def bfloat16_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "bfloat16_pays", lambda device: True)


@pytest.mark.parametrize("key", PHASE_KEYS)
def test_each_key_of_a_phase_changes_its_run(key: str):
    place, phase, value = PHASE_KEYS[key]
    phases = [dict(one) for one in PHASES]
    phases[place][key] = value
    before = settings(config(), phase=phase)
    after = settings(config(training={"phases": phases}), phase=phase)
    assert after != before
    if key not in ("tokens", "epochs", "grad_clip"):
        steps = range(0, after.num_steps(batches_per_epoch=80), 7)
        courses = [one.course(batches_per_epoch=80) for one in (before, after)]
        seen = [
            ([(course.rate(step), course.decay(step)) for step in steps], one.stages, one.geometry)
            for course, one in zip(courses, (before, after), strict=True)
        ]
        assert seen[0] != seen[1]


@pytest.mark.usefixtures("bfloat16_everywhere")
@pytest.mark.parametrize("key", SWITCHES)
def test_each_switch_decides_one_setting(key: str):
    off = settings(config(**switched(**{key: False}))).as_json()
    on = settings(config(**switched(**{key: True}))).as_json()
    assert {name for name in on if on[name] != off[name]} == {SWITCHES[key]}


@pytest.mark.usefixtures("bfloat16_everywhere")
@pytest.mark.parametrize(("dtype", "bf16"), [("bfloat16", True), ("float32", False), ("float16", False)])
def test_the_type_of_products(dtype: str, bf16: bool):
    assert settings(config(torch_dtype=dtype, **switched(bf16_autocast=True))).bf16 is bf16


def test_a_machine_without_the_type_says_so_and_a_wish_is_granted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(settings_module, "bfloat16_pays", lambda device: False)
    one = config(**switched(bf16_autocast=True))
    made = settings(one)
    assert not made.bf16
    assert made.notes == ("this CPU has no bfloat16 products: they stay float32",)
    assert settings_of(one, wishes=Wishes(device="cpu", bf16=True)).bf16


def test_what_is_asked_for_and_not_built_is_told():
    assert settings(config()).notes == ()
    asked = {"ipex_integration": True, "sparse_grad_w_masking": True, "sort_based_moe": True}
    (note,) = settings(config(**switched(**asked))).notes
    assert (
        note == "the config asks for what training does not do yet: ipex_integration, sparse_grad_w_masking"
    )


def test_a_row_is_no_longer_than_a_stream_may_be():
    with pytest.raises(UsageError, match="rows of 256 tokens, but max_position_embeddings allows 255"):
        settings(config(max_position_embeddings=255))


@pytest.mark.parametrize(("limit", "is_above"), [(0.0, True), (1000.0, False)])
def test_experts_are_unbalanced_above_the_limit(
    limit: float, is_above: bool, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(meter, "BALANCE_STEPS", 2)
    changes = {"diagnostics": {"thresholds": {"max_moe_imbalance": limit}}}
    run(tmp_path / "run", data.texts, changes=changes, steps=2)
    assert [one["unbalanced"] for one in read_log(tmp_path / "run" / "log.jsonl")] == [False, is_above]


def test_how_rounds_are_drawn_changes_the_work():
    drawn, fixed = (
        config(looping={"depth_selection": kind}) for kind in ("stochastic_per_sequence", "fixed")
    )
    assert training_flops(drawn) != training_flops(fixed)
