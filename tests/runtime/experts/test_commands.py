"""The verbs: pack, run with little memory, measure; and what they refuse."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest

from chronos_moe.store.policy import POLICIES
from chronos_moe.store.predictors import PREDICTORS
from chronos_moe.store.reading import SIMULATED_MS
from configs.errors import ChimeraError
from quant.control_groups import group_folders
from runtime.cli import experts_options
from runtime.cli.main import main
from runtime.experts.asked import Miss
from runtime.measuring.experts_bench import ALL_SIDES
from runtime.measuring.memory_group import memory_group
from tests.runtime.cli.talking import make_model
from tests.runtime.experts.conftest import Both

Run = Callable[..., tuple[int, str, str]]
ANSWER = ("Hello", "-n", "6", "--temp", "0", "-t", "2")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def test_the_words_of_options_are_those_of_the_tables():
    assert get_args(Miss) == experts_options.MISSES
    assert tuple(POLICIES) == experts_options.POLICIES
    assert tuple(PREDICTORS) == experts_options.PREDICTORS


def test_packing_then_running_gives_the_same_text(run: Run, model: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("words of some kind " * 40)
    out = tmp_path / "packed"
    code, told, _ = run("pack-experts", model, "-o", out, "--calibrate", text, "--tokens", 60, "--json")
    assert code == 0
    packed = json.loads(told)
    code, expected, _ = run("run", "-m", model, *ANSWER)
    assert code == 0
    little = f"{2 * packed['expert_bytes']}"
    code, found, stats = run("run", "-m", out, *ANSWER, "--experts-memory", little, "--stats", "--verify")
    assert (code, found) == (0, expected)
    assert "experts_misses" in stats
    code, found, _ = run("run", "-m", out, *ANSWER, "--json", "--experts-policy", "lfu")
    answer = json.loads(found)
    assert answer["text"] == expected.rstrip("\n")
    assert answer["experts"]["policy"] == "lfu"
    assert answer["stats"]["experts_reads"] == answer["experts"]["reads"] > 0
    code, found, _ = run("perplexity", out, "--data", text, "--experts-memory", little, "--json")
    whole = run("perplexity", model, "--data", text, "--json")[1]
    assert json.loads(found)["sources"] == json.loads(whole)["sources"]


def test_a_log_decides_what_lies_together(run: Run, model: Path, tmp_path: Path):
    text, log = tmp_path / "text.txt", tmp_path / "log"
    text.write_text("words of some kind " * 40)
    assert run("log-experts", model, "--data", text, "--out", log, "--tokens", 60)[0] == 0
    code, told, _ = run("pack-experts", model, "-o", tmp_path / "packed", "--log", log)
    assert code == 0
    assert str(tmp_path / "packed") in told


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pack-experts", "nowhere"], 3, "nowhere"),
        (["pack-experts", "{model}", "--log", "x", "--calibrate", "y"], 2, "two ways to the same"),
        (["pack-experts", "{model}", "--tokens", "3"], 2, "goes with --calibrate"),
        (["pack-experts", "{model}", "--calibrate", "y", "--tokens", "0"], 2, "a whole number from 1"),
        (["pack-experts", "{model}", "-o", "{model}"], 2, "stays as it is"),
        (["run", "-m", "{packed}", "Hello", "--experts-memory", "much"], 2, "the size 'much'"),
        (["run", "-m", "{packed}", "Hello", "--experts-memory", "1"], 4, "a token needs 2 at a time"),
        (["run", "-m", "{packed}", "Hello", "--on-miss", "deadline"], 2, "go together"),
        (["run", "-m", "{packed}", "Hello", "--deadline-ms", "5"], 2, "go together"),
        (["bench", "{model}", "--experts", "--no-start"], 3, "has no experts on disk"),
        (["bench", "{packed}", "--experts", "--longctx"], 2, "two benchmarks"),
        (["bench", "{packed}", "--experts", "--on-miss", "soft"], 2, "cannot be compared"),
        (["bench", "{packed}", "--experts", "-n", "1,2"], 2, "one number of tokens"),
    ],
)
def test_what_cannot_work_is_refused(
    run: Run, model: Path, packed_words: Path, arguments: list[str], code: int, words: str
):
    found, _, told = run(*(word.format(model=model, packed=packed_words) for word in arguments))
    assert (found, words in told) == (code, True), told


@pytest.fixture(scope="module")
def packed_words(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "model"
    assert main(["pack-experts", str(model), "-o", str(out)]) == 0
    return out


def test_a_slowness_that_is_none_is_refused_by_the_verb(
    run: Run, packed_words: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(SIMULATED_MS, "slow")
    code, _, told = run("run", "-m", packed_words, "Hello")
    assert code == 2
    assert SIMULATED_MS in told


def can_make_groups() -> bool:
    """Whether this process may make a control group below its own."""
    groups = list(group_folders(Path("/"), "memory"))
    if not groups:
        return False
    folder = groups[0][1] / f"chimera-test-{os.getpid()}"
    with suppress(OSError):
        folder.mkdir()
        limit = folder / ("memory.limit_in_bytes" if groups[0][0] == 1 else "memory.max")
        has_limit = limit.exists()
        folder.rmdir()
        return has_limit
    return False


def test_sides_are_measured_under_one_limit_or_it_is_said_why_not(run: Run, both: Both):
    code, out, told = run(
        "bench", both.packed, "--experts", "-n", 3, "-r", 1, "-t", 1, "--json", "--experts-predictor", "none"
    )
    if not can_make_groups():
        assert code == 1
        assert "control group" in told
        return
    assert code == 0, told
    report = json.loads(out)
    assert [side["side"] for side in report["sides"]] == list(ALL_SIDES)
    assert all(side["tokens_per_s"] > 0 for side in report["sides"])
    assert report["limit_bytes"] > report["budget_bytes"] == 18 * both.block_bytes // 4


def test_a_system_without_groups_is_told(tmp_path: Path):
    with (
        pytest.raises(ChimeraError, match="no control groups of memory"),
        memory_group("chimera-test", limit_bytes=2**30, root=tmp_path),
    ):
        raise AssertionError("there is no group")
