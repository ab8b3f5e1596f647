"""A run that is stopped in any way and goes on is the run that never stopped."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chimera.data.batches import IGNORED, batches_of
from chimera.data.shards import open_shards
from chimera.saving import load_model
from chimera.train import checkpoint
from chimera.train.divergence import Diverged
from chimera.train.initial import Initial
from chimera.train.loop import REWARM_STEPS
from chimera.train.meter import Reading
from chimera.train.resume_pack import save_pack
from chimera.train.telling import Silent
from configs.errors import ModelError, UsageError
from configs.text.training import train_sentencepiece
from tests.chimera.data.samples import sentence
from tests.chimera.train.processes import python
from tests.chimera.train.runs import STEPS, Data, learnt, run, steps_of


def test_a_run_logs_every_step_and_leaves_a_model(whole: Path):
    records = steps_of(whole)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert records[-1]["loss"] < records[0]["loss"]
    assert checkpoint.saved_steps(whole / "checkpoints") == [STEPS - 2, STEPS]
    assert all(torch.isfinite(weight).all() for weight in load_model(whole / "model").parameters())
    assert (whole / "loss.svg").exists()


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(whole: Path, data: Data, tmp_path: Path):
    out = tmp_path / "run"
    kills = int(python("-m", "tests.chimera.train.runs", out, data.texts))
    assert kills >= 1
    assert learnt(out) == learnt(whole)
    assert steps_of(out) == steps_of(whole)


def test_a_time_limit_saves_and_the_run_goes_on_to_the_same_bytes(whole: Path, data: Data, tmp_path: Path):
    out = tmp_path / "run"
    for done in (1, 2, 3):
        outcome = run(out, data.texts, resume=True, time_limit_s=1e-3)
        assert (outcome.step, outcome.complete) == (done, False)
        assert checkpoint.saved_steps(out / "checkpoints")[-1] == done
        assert outcome.words().startswith(f"stopped at step {done} of {STEPS}")
        load_model(out / "model")
    assert run(out, data.texts, resume=True, time_limit_s=1000.0).complete
    assert learnt(out) == learnt(whole)
    assert steps_of(out) == steps_of(whole)


class Impatient(Silent):
    """Presses Ctrl-C so many times when a step is done."""

    def __init__(self, *, step: int, times: int) -> None:
        self.step, self.times = step, times

    def update(self, reading: Reading) -> None:
        """After the step, before its checkpoint."""
        if reading.step == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_a_second_one_leaves_and_the_run_goes_on_to_the_same_bytes(
    whole: Path, data: Data, tmp_path: Path
):
    out = tmp_path / "run"
    outcome = run(out, data.texts, display=Impatient(step=1, times=1))
    assert (outcome.step, outcome.interrupted, outcome.complete) == (1, True, False)
    assert outcome.words().endswith("The same command with --resume goes on.")
    assert checkpoint.saved_steps(out / "checkpoints") == [1]
    load_model(out / "model")
    with pytest.raises(KeyboardInterrupt):
        run(out, data.texts, resume=True, display=Impatient(step=3, times=2))
    assert checkpoint.saved_steps(out / "checkpoints") == [1, 2]
    outcome = run(out, data.texts, resume=True)
    assert (outcome.interrupted, outcome.complete) == (False, True)
    assert learnt(out) == learnt(whole)
    assert steps_of(out) == steps_of(whole)


def test_an_interrupted_run_is_not_kept_waiting_for_validation(data: Data, tmp_path: Path):
    outcome = run(
        tmp_path / "run", data.texts, validation=(data.seen,), validate_every=1,
        display=Impatient(step=1, times=1),
    )  # fmt: skip
    assert (outcome.step, outcome.validation) == (1, None)


def test_a_run_begins_with_a_trained_model(whole: Path, data: Data, tmp_path: Path):
    before = steps_of(whole)
    wishes: dict[str, Any] = {"rows": 4, "steps": 3, "save_every": 1, "schedule": "constant"}
    outcome = run(tmp_path / "run", data.texts, initial=Initial.of(whole), **wishes)
    after = steps_of(tmp_path / "run")
    assert (outcome.step, outcome.tokens) == (3, after[-1]["tokens"])
    assert after[0]["loss"] < before[0]["loss"] - 0.3
    # It goes on with the same beginning alone.
    assert run(
        tmp_path / "run", data.texts, initial=Initial.of(whole / "model"), resume=True, **wishes
    ).complete
    with pytest.raises(UsageError, match=r"initial: .* in the run"):
        run(tmp_path / "run", data.texts, initial=Initial.of(tmp_path / "run"), resume=True, **wishes)


def test_a_model_to_begin_with_fits_the_config_and_the_words(whole: Path, data: Data, tmp_path: Path):
    with pytest.raises(ModelError, match="does not belong to this config"):
        run(tmp_path / "run", data.texts, initial=Initial.of(whole), changes={"intermediate_size": 192})
    with pytest.raises(ModelError, match="holds no trained model"):
        Initial.of(tmp_path)
    # The model's own words are another tokenizer's than those of the data.
    folder = Path(shutil.copytree(whole / "model", tmp_path / "model"))
    texts = [sentence(number)[::-1] for number in range(100)]
    train_sentencepiece(texts, out=folder / "tokenizer.model", vocab_size=300, num_threads=1)
    with pytest.raises(UsageError, match="cut into words by another one"):
        run(tmp_path / "other", data.texts, initial=Initial.of(folder))


def test_the_anchor_holds_the_routing_where_it_was(whole: Path, data: Data, tmp_path: Path):
    def distances(name: str, weight: float) -> list[float]:
        changes = {"chronos": {"lambda_anchor": weight, "lambda_balance": 0.5}}
        wishes = {"steps": 4, "lr": 1e-2, "warmup": 0, "accumulate": 1, "save_every": 2}
        out = tmp_path / name
        run(out, data.texts, changes=changes, initial=Initial.of(whole), time_limit_s=1e-3, **wishes)
        run(out, data.texts, changes=changes, initial=Initial.of(whole), resume=True, **wishes)
        return [record["terms"]["anchor"] for record in steps_of(out)]

    loose, tight = distances("loose", 1e-6), distances("tight", 100.0)
    assert loose[0] == tight[0] == pytest.approx(0.0, abs=1e-6)
    assert 0 < tight[-1] < 0.5 * loose[-1]


def test_an_anchor_needs_a_model_begun_with(data: Data, tmp_path: Path):
    said = Heard()
    run(tmp_path / "run", data.texts, changes={"chronos": {"lambda_anchor": 0.1}}, steps=1, display=said)
    assert any("without --init it does nothing" in line for line in said.lines)
    assert "anchor" not in steps_of(tmp_path / "run")[0]["terms"]


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


def test_a_complete_run_has_no_step_left(whole: Path, data: Data, tmp_path: Path):
    before = learnt(whole), steps_of(whole)
    outcome = run(whole, data.texts, resume=True)
    assert (outcome.loss, outcome.step, outcome.complete) == (None, STEPS, True)
    assert json.loads(json.dumps(outcome.as_json()))["loss"] is None
    assert "loss" not in outcome.words().splitlines()[0]
    assert (learnt(whole), steps_of(whole)) == before


@pytest.mark.parametrize(
    ("changes", "wishes", "named"),
    [
        ({"chronos": {"lambda_balance": 0.1}}, {}, "chronos.lambda_balance: 0.0005 in the run, 0.1 now"),
        ({}, {"seed": 1}, "seed: 0 in the run, 1 now"),
        ({}, {"lr": 1e-3}, "lr: 0.002 in the run, 0.001 now"),
    ],
)
def test_a_run_goes_on_only_as_it_was_begun(
    changes: dict[str, Any], wishes: dict[str, Any], named: str, whole: Path, data: Data
):
    with pytest.raises(UsageError, match="cannot go on") as caught:
        run(whole, data.texts, changes=changes, resume=True, **wishes)
    assert named in str(caught.value)


def test_a_run_goes_on_only_with_its_data_and_when_asked(whole: Path, data: Data):
    with pytest.raises(UsageError, match=r"(?s)cannot go on.*data: "):
        run(whole, data.seen, resume=True)
    with pytest.raises(UsageError, match="holds a run that has begun"):
        run(whole, data.texts)


def test_the_seed_decides_a_run(whole: Path, data: Data, tmp_path: Path):
    run(tmp_path / "run", data.texts, seed=1, steps=1, save_every=1)
    assert steps_of(tmp_path / "run")[0]["loss"] != steps_of(whole)[0]["loss"]


def test_what_may_change_changes_nothing_that_is_learnt(whole: Path, data: Data, tmp_path: Path):
    out = tmp_path / "run"
    run(out, data.texts, time_limit_s=1e-3)
    run(out, data.texts, resume=True, save_every=3, keep=1)
    assert checkpoint.saved_steps(out / "checkpoints") == [STEPS]
    assert learnt(out) == learnt(whole)


def test_a_loss_that_is_no_number_stops_with_a_report(data: Data, tmp_path: Path):
    with pytest.raises(Diverged, match="the step was not applied") as caught:
        run(tmp_path / "run", data.texts, lr=1e30, warmup=0, save_every=1)
    assert caught.value.exit_code == 1
    report = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert report["step"] >= 1
    # The newest checkpoint is one that the step did not touch.
    found = checkpoint.load_latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.step == report["step"]


def test_validation_is_logged_where_it_is_due_and_at_the_end(data: Data, tmp_path: Path):
    outcome = run(tmp_path / "run", data.texts, validation=(data.seen,), steps=5, validate_every=2)
    scores = {
        record["step"]: record["validation"]
        for record in steps_of(tmp_path / "run")
        if "validation" in record
    }
    assert list(scores) == [2, 4, 5]
    assert outcome.validation is not None
    assert scores[5] == outcome.validation.as_json()
    assert scores[5]["bits_per_byte"] < scores[2]["bits_per_byte"]


LENGTHS = {"training": {"phases": [{"name": "ctx_extend", "stages": [[32, "main"], [128, 7, 2e-3]]}]}}


def test_context_grows_with_carried_states_and_goes_on_in_the_middle_of_a_row(data: Data, tmp_path: Path):
    def extend(name: str, **more: Any) -> Any:
        return run(
            tmp_path / name, data.texts, changes=LENGTHS, phase="ctx_extend",
            steps=None, accumulate=None, lr=None, **more,
        )  # fmt: skip

    extend("whole")
    for done in range(1, 8):
        assert extend("cut", resume=True, time_limit_s=1e-3).step == done
        found = checkpoint.load_latest(tmp_path / "cut" / "checkpoints")
        assert found is not None
        # Four steps go through a row; after the fourth, and at the end, nothing is carried on.
        assert (found.state["extra"]["carried"] is None) == (done in (4, 7))
    assert learnt(tmp_path / "cut") == learnt(tmp_path / "whole")
    assert steps_of(tmp_path / "cut") == steps_of(tmp_path / "whole")


def test_answers_alone_are_learnt(data: Data, tmp_path: Path):
    run(tmp_path / "run", data.chats, phase="sft", steps=2, accumulate=1)
    shards = open_shards(data.chats)
    batches = batches_of(shards, rows=2, seq_len=32, answers_only=True)
    for number, record in enumerate(steps_of(tmp_path / "run")):
        batch = batches.batch(number)
        learnt_from = batch.labels_BT[batch.labels_BT != IGNORED]
        done = sum(batches.batch(before).num_labels for before in range(number + 1))
        assert record["tokens"] == done
        assert 0 < len(learnt_from) < 0.9 * (batch.ids_BT != 0).sum()
    answers = np.array(shards.tokens)[np.array(shards.answers) != 0]
    assert set(learnt_from.tolist()) <= set(answers.tolist())


def test_data_without_answers_teaches_no_answers(data: Data, tmp_path: Path):
    with pytest.raises(UsageError, match="holds no answers to learn from"):
        run(tmp_path / "run", data.texts, phase="sft", steps=1)


def test_a_resume_pack_goes_on_nearly_where_the_run_was(whole: Path, data: Data, tmp_path: Path):
    run(tmp_path / "there", data.texts, time_limit_s=1e-3)
    shards = open_shards(data.texts)
    digests = {"data": shards.digest, "tokenizer": shards.tokenizer_digest}
    found = checkpoint.load_latest(tmp_path / "there" / "checkpoints")
    assert found is not None
    position = {"tokens": found.state["extra"]["tokens"]}
    model = load_model(tmp_path / "there" / "model")
    pack = tmp_path / "run.pack"
    save_pack(pack, model, step=1, position=position, digests=digests)

    outcome = run(tmp_path / "here", data.texts, pack=pack)
    assert (outcome.step, outcome.complete) == (STEPS, True)
    before, after = steps_of(whole), steps_of(tmp_path / "here")
    assert [record["step"] for record in after] == list(range(2, STEPS + 1))
    assert after[0]["tokens"] == before[1]["tokens"]
    assert after[0]["loss"] == pytest.approx(before[1]["loss"], rel=0.02)
    # Moments begin anew, so the rate rises from 0 again.
    assert after[0]["rate"] == 0
    assert after[2]["rate"] == pytest.approx(before[3]["rate"] * 2 / REWARM_STEPS)
    # The run that began with the pack goes on from its own checkpoints.
    assert run(tmp_path / "here", data.texts, pack=pack, resume=True).loss is None
    with pytest.raises(UsageError, match=r"(?s)was begun with something else.*data"):
        run(tmp_path / "other", data.seen, pack=pack)


def test_twins_in_full_precision_are_trained_too(whole: Path, data: Data, tmp_path: Path):
    outcome = run(tmp_path / "run", data.texts, ternary=False, steps=1, save_every=1)
    assert outcome.loss is not None
    assert math.isfinite(outcome.loss)
    assert outcome.loss != steps_of(whole)[0]["loss"]
