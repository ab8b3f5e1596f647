"""What a phase of a config and the caller's wishes become, and that nothing contradictory is let through."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.train.geometry import Geometry, geometry_of
from chimera.train.phases import DEFAULTS, Stage, phase_of
from chimera.train.schedule import Chain, Schedule
from chimera.train.settings import MAY_CHANGE, Wishes, settings_of
from configs.errors import UsageError
from configs.load import build_config, preset
from configs.schema.model import ModelConfig
from configs.schema.training import PhaseName

CPU = torch.device("cpu")


def config(*phases: dict[str, Any], **more: Any) -> ModelConfig:
    return build_config({"preset": "micro", "training": {"phases": list(phases)}, **more}, source="test")


def test_the_published_phase_is_trained_as_written():
    settings = settings_of(preset("chimera-5.1"), wishes=Wishes(device="cpu"))
    assert settings.stages == (Stage(seq_len=4096, length=4096, lr=3e-4),)
    assert settings.geometry == Geometry(rows=1, seq_len=4096, accumulate=977)
    assert settings.num_steps(batches_per_epoch=1) == round(2e12 / (977 * 4096))
    assert (settings.weight_decay, settings.grad_clip, settings.schedule) == (0.1, 1.0, "cosine_warmup")
    course = settings.course(batches_per_epoch=1)
    assert course.rate(2000) == pytest.approx(3e-4)
    assert course.rate(1000) == pytest.approx(1.5e-4)
    assert not settings.answers_only
    assert not settings.carries


def test_binary_batches_give_the_published_number_of_steps():
    settings = settings_of(preset("chimera-5.1"), wishes=Wishes(batch_tokens=4_194_304, device="cpu"))
    assert settings.num_steps(batches_per_epoch=1) == 476_837


def test_the_context_grows_with_carried_states():
    settings = settings_of(preset("chimera-5.1"), phase="ctx_extend", wishes=Wishes(device="cpu"))
    assert settings.stages == (
        Stage(seq_len=4096, length=16384, lr=1e-5, num_steps=10000),
        Stage(seq_len=4096, length=65536, lr=5e-6, num_steps=5000),
        Stage(seq_len=4096, length=262144, lr=2e-6, num_steps=2000),
    )
    assert settings.carries
    assert settings.geometry == Geometry(rows=977, seq_len=4096, accumulate=1)
    assert settings.stage_steps(batches_per_epoch=7) == (10000, 5000, 2000)
    course = settings.course(batches_per_epoch=7)
    assert isinstance(course, Chain)
    assert [course.rate(step) for step in (50, 10050, 15050)] == [1e-5, 5e-6, 2e-6]
    # What its own phase leaves out is as in pretraining.
    assert (settings.weight_decay, settings.grad_clip) == (0.1, 1.0)


def test_a_shorter_run_of_stages_keeps_their_shares():
    settings = settings_of(preset("chimera-5.1"), phase="ctx_extend", wishes=Wishes(steps=170, device="cpu"))
    assert settings.stage_steps(batches_per_epoch=7) == (100, 50, 20)
    assert settings.course(batches_per_epoch=7).rate(10) == 1e-5


def test_fine_tuning_learns_from_answers_alone():
    settings = settings_of(preset("chimera-5.1"), phase="sft", wishes=Wishes(device="cpu"))
    assert settings.answers_only
    assert settings.epochs == 3
    assert settings.stages[0].lr == 2e-5
    assert settings.geometry.step_tokens == 65536
    assert settings.num_steps(batches_per_epoch=160) == round(3 * 160 / settings.geometry.accumulate)


@pytest.mark.parametrize("phase", DEFAULTS)
def test_a_config_without_phases_can_be_trained(phase: PhaseName):
    settings = settings_of(preset("demo"), phase=phase, wishes=Wishes(device="cpu"))
    assert settings.num_steps(batches_per_epoch=1000) > 0
    assert settings.course(batches_per_epoch=1000).rate(100) > 0
    assert settings.ternary


def test_without_a_length_the_data_is_read_once():
    settings = settings_of(preset("micro"), wishes=Wishes(device="cpu", rows=2, accumulate=3))
    assert settings.epochs == 1.0
    assert settings.num_steps(batches_per_epoch=30) == 10


@pytest.mark.parametrize(
    ("wish", "steps"),
    [
        ({"steps": 7}, 7),
        ({"tokens": 5_000}, 10),
        ({"epochs": 2.5}, 25),
        ({"tokens": 1}, 1),
        ({"epochs": 0.01}, 1),
    ],
)
def test_steps_tokens_and_passes_each_say_how_long(wish: dict[str, Any], steps: int):
    one = config({"name": "pretrain", "tokens": "1M"})
    settings = settings_of(one, wishes=Wishes(device="cpu", rows=2, seq_len=250, accumulate=1, **wish))
    assert settings.num_steps(batches_per_epoch=10) == steps


def test_a_config_that_says_how_long_says_it_whole():
    assert phase_of(config({"name": "sft", "tokens": "1M"}), "sft").epochs is None
    assert phase_of(config({"name": "ctx_extend", "tokens": "1M"}), "ctx_extend").stages is None
    assert phase_of(config({"name": "sft", "lr": 1e-4}), "sft").epochs == 3


def test_a_config_s_warm_up_gives_way_to_a_short_run_and_a_wish_does_not():
    one = config({"name": "pretrain", "warmup_steps": 2000, "lr": 1e-3})
    short = settings_of(one, wishes=Wishes(device="cpu", steps=100))
    assert short.course(batches_per_epoch=1).rate(10) == 1e-3
    asked = settings_of(one, wishes=Wishes(device="cpu", steps=100, warmup=50))
    assert asked.course(batches_per_epoch=1).rate(10) == pytest.approx(2e-4)
    with pytest.raises(UsageError, match="200 steps of warm-up in a run of 100"):
        settings_of(one, wishes=Wishes(device="cpu", steps=100, warmup=200)).course(batches_per_epoch=1)


def test_what_is_asked_for_wins():
    wishes = Wishes(
        seq_len=64, rows=4, accumulate=2, steps=9, lr=5e-3, schedule="constant", warmup=0, weight_decay=0.0,
        decay_embedding=True, clip=0.0, ternary=False, device="cpu", bf16=True, compile=True,
        checkpointing=True, threads=3, seed=11, save_every=5, keep=1, validate_every=0,
    )  # fmt: skip
    settings = settings_of(preset("chimera-5.1"), wishes=wishes)
    assert settings.stages == (Stage(seq_len=64, length=64, lr=5e-3),)
    assert settings.course(batches_per_epoch=1) == Schedule(kind="constant", peak=5e-3, num_steps=9)
    assert settings.grad_clip is None
    named = settings.as_json()
    for name in ("ternary", "bf16", "compile", "checkpointing", "decay_embedding", "threads", "seed", "keep"):
        assert named[name] == getattr(wishes, name)


def test_settings_are_json_and_notes_are_none_of_them():
    settings = settings_of(preset("chimera-5.1"), phase="ctx_extend", wishes=Wishes(device="cpu"))
    named = json.loads(json.dumps(settings.as_json(), allow_nan=False))
    assert set(MAY_CHANGE) < set(named)
    assert "notes" not in named
    assert named["stages"][0]["length"] == 16384


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"tokens": 5, "steps": 5}, "--tokens 5 and --steps 5 each say how long to train"),
        ({"tokens": 0}, "--tokens 0; allowed are numbers from 1 on"),
        ({"steps": 0}, "--steps 0; allowed"),
        ({"epochs": 0.0}, "--epochs 0; allowed are numbers above 0"),
        ({"epochs": float("nan")}, "--epochs nan; allowed"),
        ({"lr": -1.0}, "--lr -1; allowed"),
        ({"lr": float("nan")}, "--lr nan; allowed"),
        ({"lr": float("inf")}, "--lr inf; allowed"),
        ({"clip": float("inf")}, "--clip inf; allowed"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1; allowed"),
        ({"warmup": -1}, "--warmup -1; allowed"),
        ({"rows": 0}, "--rows 0; allowed"),
        ({"accumulate": 0}, "--accumulate 0; allowed"),
        ({"seq_len": 0}, "--seq-len 0; allowed"),
        ({"batch_tokens": 0}, "--batch-tokens 0; allowed"),
        ({"rows": 2, "accumulate": 2, "seq_len": 64, "batch_tokens": 300}, "are 256 tokens a step, not"),
        ({"threads": 0}, "--threads 0; allowed"),
        ({"save_every": 0}, "--save-every 0; allowed"),
        ({"keep": 0}, "--keep 0; allowed"),
        ({"validate_every": -1}, "--validate-every -1; allowed"),
        ({"seed": -1}, "--seed -1; allowed"),
        ({"device": "tpu9"}, "'tpu9' is no device"),
        ({"device": "meta"}, "training on 'meta' is not built"),
        ({"device": "cuda:99"}, "the device 'cuda:99' is not there"),
        ({"seq_len": 8_000_000}, "rows of 8000000 tokens, but max_position_embeddings allows 4194304"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(wishes: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        settings_of(preset("micro"), wishes=Wishes(**{"device": "cpu", **wishes}))


@pytest.mark.parametrize("name", ["dpo", "orpo", "grpo", "distill"])
def test_a_phase_of_another_verb_is_refused(name: PhaseName):
    with pytest.raises(UsageError, match="Allowed are pretrain, ctx_extend, sft"):
        settings_of(preset("chimera-5.1"), phase=name)


def test_carried_states_allow_one_batch_a_step():
    with pytest.raises(UsageError, match="--accumulate 4 in a phase that carries states"):
        settings_of(preset("demo"), phase="ctx_extend", wishes=Wishes(accumulate=4, device="cpu"))
    made = settings_of(preset("demo"), phase="ctx_extend", wishes=Wishes(rows=2, device="cpu"))
    assert made.geometry == Geometry(rows=2, seq_len=1024, accumulate=1)


def test_phases_that_contradict_are_refused():
    twice = config({"name": "sft", "lr": 1e-5}, {"name": "sft", "lr": 1e-4})
    with pytest.raises(UsageError, match="names 2 phases 'sft'"):
        settings_of(twice, phase="sft")
    with pytest.raises(UsageError, match="names no stage to go through"):
        settings_of(config({"name": "ctx_extend", "stages": [[4096, "main"]]}), phase="ctx_extend")
    with pytest.raises(UsageError, match=r"the stage \[4096, 0, 0.1\]"):
        settings_of(config({"name": "ctx_extend", "stages": [[4096, 0, 0.1]]}), phase="ctx_extend")


@given(
    seq_len=st.integers(1, 5000),
    tokens=st.integers(1, 10**7),
    rows=st.none() | st.integers(1, 64),
    accumulate=st.none() | st.integers(1, 64),
)
def test_a_step_holds_what_is_asked_and_hardly_more(
    seq_len: int, tokens: int, rows: int | None, accumulate: int | None
):
    if rows is not None and accumulate is not None:
        accumulate = None
    made = geometry_of(
        seq_len=seq_len, batch_tokens=tokens, config_tokens=1, rows=rows, accumulate=accumulate, device=CPU
    )
    assert made.seq_len == seq_len
    assert rows in (None, made.rows)
    assert accumulate in (None, made.accumulate)
    assert tokens <= made.step_tokens
    # One row more in every batch, or one batch more, is all that rounding up may add.
    assert made.step_tokens < tokens + seq_len * (made.accumulate + made.rows)


def test_every_wish_has_an_effect():
    """A wish that nothing reads would be a lie on the command line."""
    base = settings_of(preset("micro"), wishes=Wishes(device="cpu", steps=5))
    values: dict[str, Any] = {
        "seq_len": 32, "rows": 3, "accumulate": 3, "batch_tokens": 128, "tokens": 10**6, "epochs": 2.0,
        "lr": 0.5,
        "schedule": "two_stage", "warmup": 1, "weight_decay": 0.5, "decay_embedding": True, "clip": 9.0,
        "ternary": False, "bf16": True, "compile": True, "checkpointing": True, "threads": 7, "seed": 5,
        "save_every": 3, "keep": 9, "validate_every": 3,
    }  # fmt: skip
    assert set(values) | {"steps", "device"} == {field.name for field in dataclasses.fields(Wishes)}
    for name, value in values.items():
        length = {} if name in ("tokens", "epochs") else {"steps": 5}
        assert settings_of(preset("micro"), wishes=Wishes(device="cpu", **length, **{name: value})) != base, (
            name
        )
