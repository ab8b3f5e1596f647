"""`chimera train` from the command line: a small model learns, stops, goes on, and refuses what cannot be."""

import argparse
import dataclasses
import importlib.util
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chimera.cli import train as verb
from chimera.saving import load_model
from chimera.train.checkpoint import saved_steps
from chimera.train.log import read_log
from chimera.train.settings import Wishes
from runtime.cli.main import main

WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "saw",
    "a",
    "small",
    "dog",
    "run",
    "to",
    "red",
    "house",
    "day",
)
SHAPE = ("--rows", "2", "--seq-len", "64", "--accumulate", "2", "--device", "cpu")


def write_text(path: Path, *, documents: int, seed: int) -> Path:
    draw = random.Random(seed)
    texts = (" ".join(draw.choice(WORDS) for _ in range(60)) for _ in range(documents))
    path.write_text("".join(f"{text}.\n<|endoftext|>\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "stories.txt", documents=120, seed=0)


@pytest.fixture
def arguments(text: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """A command line that trains a tiny model into `tmp_path/run`, with more arguments behind it."""

    def made(*more: str) -> list[str]:
        run = str(tmp_path / "run")
        return [
            "train",
            "micro",
            "--data",
            str(text),
            "--out",
            run,
            "--train-tokenizer",
            "300",
            *SHAPE,
            *more,
        ]

    return made


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return parser.parse_args(["micro", "--data", "x", "--out", "y", *arguments])


def test_every_setting_has_an_argument_and_says_nothing_unless_asked():
    assert verb.wishes_of(parsed()) == Wishes()
    given = parsed(
        "--seq-len", "64", "--rows", "2", "--accumulate", "3", "--batch-tokens", "4K", "--steps", "9",
        "--lr", "1e-3", "--schedule", "two_stage", "--warmup", "5", "--weight-decay", "0.2",
        "--decay-embedding", "--clip", "0.5", "--no-ternary", "--device", "cpu", "--no-bf16", "--compile",
        "--checkpointing", "--threads", "2", "--seed", "3", "--save-every", "7", "--keep", "4",
        "--validate-every", "8",
    )  # fmt: skip
    wishes = dataclasses.asdict(verb.wishes_of(given))
    assert [name for name, value in wishes.items() if value is None] == ["tokens", "epochs"]
    assert (wishes["batch_tokens"], wishes["ternary"], wishes["bf16"]) == (4000, False, False)
    assert verb.wishes_of(parsed("--tokens", "1.5M")).tokens == 1_500_000
    assert verb.wishes_of(parsed("--epochs", "0.5")).epochs == 0.5


def test_a_model_learns_and_the_answer_is_json(
    arguments: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    seen = write_text(tmp_path / "seen.txt", documents=8, seed=1)
    line = arguments(
        "--val", str(seen), "--steps", "8", "--lr", "3e-3", "--warmup", "0", "--save-every", "5", "--json"
    )
    assert main(line) == 0
    shown = capfd.readouterr()
    answer = json.loads(shown.out)
    assert shown.err == ""
    assert (answer["step"], answer["num_steps"], answer["complete"]) == (8, 8, True)
    assert 0 < answer["validation"]["bits_per_byte"] < 8
    run = tmp_path / "run"
    steps = [record for record in read_log(run / "log.jsonl") if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 9))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert {"bits_per_byte", "tokens_per_s", "model_flops_used", "memory_bytes", "grad_norm"} <= set(steps[0])
    assert (run / "loss.svg").read_text().startswith("<svg")
    model = load_model(run / "model")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_run_goes_on_only_when_asked_and_with_what_it_was_begun_with(
    arguments: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(arguments("--steps", "3", "--time-limit", "0.001")) == 0
    shown = capfd.readouterr()
    assert "stopped at step 1 of 3" in shown.out
    assert "The same command with --resume goes on." in shown.out
    assert "step 1/3" in shown.err
    assert main(arguments("--steps", "3")) == 2
    assert "holds a run that has begun" in capfd.readouterr().err
    assert main(arguments("--steps", "4", "--resume")) == 2
    assert "steps: 3 in the run, 4 now" in capfd.readouterr().err
    assert main(arguments("--steps", "3", "--resume", "--save-every", "1")) == 0
    assert capfd.readouterr().out.startswith("done: ")
    assert (tmp_path / "run.data" / "train" / "index.json").is_file()
    assert main(arguments("--steps", "3", "--resume", "--json")) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["loss"], answer["step"], answer["complete"]) == (None, 3, True)
    assert [record["step"] for record in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3]


def interrupt_after_the_first_step(log: Path) -> threading.Thread:
    """Press Ctrl-C once a line is in the log."""

    def wait() -> None:
        while not log.is_file() or not log.stat().st_size:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_ctrl_c_saves_and_leaves_with_its_own_exit_code(
    arguments: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    thread = interrupt_after_the_first_step(tmp_path / "run" / "log.jsonl")
    assert main(arguments("--steps", "10000", "--save-every", "10000")) == 130
    thread.join()
    shown = capfd.readouterr()
    assert "stopping after this step, with a checkpoint; Ctrl-C again leaves at once" in shown.err
    assert shown.out.startswith("stopped at step ")
    assert "The same command with --resume goes on." in shown.out
    (step,) = saved_steps(tmp_path / "run" / "checkpoints")
    assert f"stopped at step {step:,} of 10,000" in shown.out


def test_a_later_phase_begins_with_a_trained_model_and_its_words(
    arguments: Callable[..., list[str]], text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(arguments("--steps", "1")) == 0
    later = ["train", "micro", "--data", str(text), "--out", str(tmp_path / "later"), *SHAPE, "--json"]
    capfd.readouterr()
    assert main([*later, "--init", str(tmp_path / "run"), "--steps", "1", "--lr", "0"]) == 0
    assert json.loads(capfd.readouterr().out)["complete"]
    words = [(tmp_path / run / "model" / "tokenizer.model").read_bytes() for run in ("run", "later")]
    assert words[0] == words[1]
    first, second = (load_model(tmp_path / run / "model").state_dict() for run in ("run", "later"))
    assert all(torch.equal(first[name], second[name]) for name in first if "router_bias" not in name)
    assert main([*later, "--init", str(tmp_path / "nowhere"), "--steps", "1"]) == 3
    assert "holds no trained model" in capfd.readouterr().err


def test_a_run_that_diverges_fails_with_a_report(
    arguments: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(arguments("--steps", "20", "--lr", "1e30", "--warmup", "0", "--save-every", "1")) == 1
    shown = capfd.readouterr()
    report_path = tmp_path / "run" / "stopped.json"
    assert shown.out == ""
    assert str(report_path) in shown.err
    report = json.loads(report_path.read_text())
    assert report["step"] >= 1
    assert report["learning_rate"] > 0
    assert report["gradients"]
    assert "batch" in report["data_position"]


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("--data", "nowhere.txt"), 1, "nowhere.txt: there is no such file or folder"),
    (("--val", "nowhere.txt"), 1, "nowhere.txt: there is no such file or folder"),
    (("--pack", "nowhere.pack"), 2, "--pack nowhere.pack: there is no such file"),
    (("--time-limit", "0"), 2, "--time-limit 0: a number of seconds above 0 is needed"),
    (("--time-limit", "nan"), 2, "--time-limit nan"),
    (("--steps", "2", "--tokens", "1K"), 2, "not allowed with argument"),
    (("--tokenizer", "x.model"), 2, "not allowed with argument"),
    (("--phase", "dpo"), 2, "invalid choice: 'dpo'"),
    (("--tokens", "many"), 2, "'many' is not a number with K, M, B or T behind it"),
    (("--steps", "0"), 2, "--steps 0; allowed are numbers from 1 on"),
    (("--rows", "0"), 2, "--rows 0; allowed"),
    (("--device", "abacus"), 2, "'abacus' is no device"),
    (("--warmup", "9", "--steps", "3"), 2, "9 steps of warm-up in a run of 3"),
]


@pytest.mark.parametrize(("more", "exit_code", "words"), BAD, ids=[" ".join(more) for more, _, _ in BAD])
def test_what_cannot_be_is_refused(
    more: tuple[str, ...],
    exit_code: int,
    words: str,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    assert main(arguments(*more)) == exit_code
    shown = capfd.readouterr()
    assert words in shown.err
    assert shown.out == ""
    assert not (tmp_path / "run" / "model").exists()


def test_a_folder_without_text_is_refused(
    arguments: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(arguments("--data", str(tmp_path))) == 1
    assert "no data file below it" in capfd.readouterr().err


def test_a_model_that_cannot_be_trained_is_refused_before_its_text_is_read(
    text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    config = tmp_path / "config.json"
    attention = {"layer_pattern": "GQ", "layer_aliases": {"GQ": "gqa"}, "moe": {"enabled": False}}
    config.write_text(json.dumps({"preset": "micro", "backbone": attention}))
    assert main(["train", str(config), "--data", str(text), "--out", str(tmp_path / "run")]) == 2
    assert "cannot be trained here" in capfd.readouterr().err
    assert not (tmp_path / "run.data").exists()


def test_without_pytorch_the_way_to_it_is_shown(
    arguments: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "torch" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert main(arguments()) == 1
    assert 'pip install "chimera-edge[train]"' in capfd.readouterr().err


def test_a_tokenizer_is_needed(text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["train", "micro", "--data", str(text), "--out", str(tmp_path / "run"), *SHAPE]) == 2
    assert "--train-tokenizer" in capfd.readouterr().err
