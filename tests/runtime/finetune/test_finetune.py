"""`chimera finetune`: it learns, a killed run goes on to the same bytes, and what is wrong is told."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quant.adapter import read_adapter
from runtime.cli.main import main
from tests.runtime.finetune.learning import chimera, make_other

Finetune = Callable[..., tuple[int, str, str]]
LONG_S = 120.0


@pytest.fixture
def finetune(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Finetune:
    """The command with this model and data, and its code, answer and complaint."""

    def run(
        *arguments: object, out: str = "a.cza", verb: str = "finetune", **_: object
    ) -> tuple[int, str, str]:
        given = ["-m", folder / "model", "--data", folder / "data.jsonl", "-t", 1]
        target = [] if "--resume" in arguments or verb != "finetune" else ["--out", tmp_path / out]
        words = [verb, *(given if verb == "finetune" else []), *target, *arguments]
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.mark.parametrize("method", ["scales", "codes", "state"])
def test_the_loss_falls(finetune: Finetune, method: str) -> None:
    code, out, err = finetune(
        "--method", method, "--steps", 60, "--move", 0.01, "--schedule", "constant", "--batch", 4,
        *(("--set", "spread=512") if method == "codes" else ()), "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["steps"] == 60
    assert report["file_bytes"] < 3000
    assert report["last_loss"] < report["first_loss"]


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    finetune: Finetune, folder: Path, tmp_path: Path
) -> None:
    arguments = [
        "--steps", 30, "--batch", 4, "--pairs", 2, "--val-share", 0.3, "--look-every", 4, "--seed", 3,
        "--decay", 0.02, "--rounds", 1, "--scorer", folder / "score.py", "--max-tokens", 3,
    ]  # fmt: skip
    assert finetune(*arguments, out="whole.cza")[0] == 0
    path = tmp_path / "killed.cza"
    command = ["finetune", "-m", folder / "model", "--data", folder / "data.jsonl", "-t", 1]
    more: list[object] = [*arguments, "--out", path]
    for records in (3, 9):
        process = chimera(*command, *more)
        _wait_for_bytes(path, least=700 + 24 * records)
        process.kill()
        process.communicate()
        assert 0 < read_adapter(path).num_steps < 30
        more = ["--resume", path, "--val-share", 0.3, "--scorer", folder / "score.py"]
    # What a killed writer may leave beside.
    path.write_bytes(path.read_bytes()[:-5])
    code, out, err = finetune(*more)
    assert (code, err) == (0, "")
    assert "30 steps" in out
    assert path.read_bytes() == (tmp_path / "whole.cza").read_bytes()


def _wait_for_bytes(path: Path, *, least: int) -> None:
    until = time.monotonic() + LONG_S
    while not path.exists() or path.stat().st_size < least:
        assert time.monotonic() < until, "the run writes its log"
        time.sleep(0.01)


def test_an_early_stop_leaves_the_best(finetune: Finetune, folder: Path, tmp_path: Path) -> None:
    """A score that is best at the third look and falls from there on."""
    scorer = tmp_path / "score.py"
    scorer.write_text(
        "import itertools\n"
        "numbers = itertools.count()\n"
        "def score(prompt, answer, completion):\n"
        "    return -abs(next(numbers) - 2)\n"
    )
    (tmp_path / "val.jsonl").write_text('{"prompt": "Hello", "completion": "yes"}\n')
    code, out, _ = finetune(
        "--steps", 50, "--batch", 2, "--look-every", 2, "--patience", 3, "--val", tmp_path / "val.jsonl",
        "--scorer", scorer, "--max-tokens", 1, "--json",
    )  # fmt: skip
    assert code == 0
    report = json.loads(out)
    assert report["steps"] == 4
    assert [look["score"] for look in report["looks"]] == [-2, -1, 0]
    assert read_adapter(tmp_path / "a.cza").num_steps == 4


def test_a_score_can_be_what_is_learnt(finetune: Finetune, folder: Path) -> None:
    arguments = ["--steps", 2, "--batch", 2, "--objective", "score", "--max-tokens", 4, "--epsilon", 0.5]
    code, out, err = finetune(*arguments, "--scorer", folder / "score.py", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["last_loss"] > 0


BAD: list[tuple[list[object], int, str]] = [
    (["--steps", 0], 2, "steps 0"),
    (["--move", -1], 2, "move -1.0"),
    (["--epsilon", 2], 2, "epsilon 2"),
    (["--clip", "nan"], 2, "clip nan"),
    (["--decay", 1], 2, "decay 1.0"),
    (["--seed", -1], 2, "seed -1"),
    (["-t", 0], 2, "0 threads"),
    (["--rounds", 0], 2, "0 rounds"),
    (["--rounds", 99], 2, "99 rounds"),
    (["--set", "spread"], 2, "NAME=VALUE"),
    (["--set", "x=1"], 2, "no setting 'x'"),
    (["--objective", "score"], 2, "there is no scorer"),
    (["--scorer", "none.py"], 2, "no Python file"),
    (["--patience", 2], 1, "--val"),
    (["--val-share", 1.5], 2, "validation share"),
    (["--longest", 5], 1, "data.jsonl:1: "),
    (["--adapter", "none.cza"], 3, "no file none.cza"),
    (["--method", "none"], 2, "none"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), BAD, ids=[" ".join(map(str, bad[0])) for bad in BAD])
def test_what_is_wrong_is_told(
    finetune: Finetune, tmp_path: Path, arguments: list[object], code: int, words: str
) -> None:
    found, out, err = finetune("--steps", 1, *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert not (tmp_path / "a.cza").exists()


def test_malformed_lines_stop_a_run_unless_it_is_told_to_skip(
    finetune: Finetune, folder: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    lines = ['{"prompt": "a", "completion": "b"}', "{not json", '{"prompt": "a"}', '{"text": ""}']
    bad.write_text("\n".join([*lines, '{"messages": [{"role": "user", "content": "a"}]}']))
    code, _, err = finetune("--data", bad, "--steps", 1)
    assert code == 1
    assert "bad.jsonl:2:" in err
    code, _, err = finetune("--data", bad, "--steps", 1, "--skip-bad")
    assert (code, err) == (0, "chimera: 4 bad records were left out\n")
    bad.write_text("{not json\n")
    code, _, err = finetune("--data", bad, "--steps", 1, "--skip-bad", out="b.cza")
    assert code == 1
    assert "nothing to learn" in err


DEFINED = "def score(prompt, answer, completion):\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def score(prompt, answer, completion):\n    return 1 / 0\n",
            "score.py:2: the scorer raised ZeroDivision",
        ),
        ("def score(prompt, answer, completion):\n    return None\n", "gave 'None' for"),
        ("x = 1\ny = x / 0\n", "score.py:2: the scorer cannot be loaded"),
        ("x = 1\n", "has no function score"),
    ],
)
def test_a_scorer_that_fails_is_told_with_its_place(
    finetune: Finetune, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "score.py").write_text(text)
    code, _, err = finetune(
        "--steps", 2, "--val-share", 0.2, "--scorer", tmp_path / "score.py", "--max-tokens", 1
    )
    assert code in (1, 2)
    assert words in err
    assert "score.py" in err
    if "given" in err or "gave" in err:
        assert "data.jsonl:" in err


def test_what_a_run_was_told_stays(finetune: Finetune, folder: Path, tmp_path: Path) -> None:
    assert finetune("--steps", 2, "--batch", 2)[0] == 0
    assert "is there already" in finetune("--steps", 2)[2]
    path = tmp_path / "a.cza"
    code, _, err = finetune("--resume", path, "--batch", 3)
    assert (code, "batch" in err) == (2, True)
    code, _, err = finetune("--resume", path, "--val-share", 0.4)
    assert (code, "was begun with data" in err) == (3, True)
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "a", "completion": "b"}\n')
    code, _, err = finetune("--resume", path, "--data", other)
    assert (code, "was begun with data" in err) == (3, True)
    model = make_other(tmp_path / "model")
    code, _, err = finetune("--resume", path, "-m", model)
    base = read_adapter(path).header.base[:12]
    assert (code, f"learnt on the model {base}…, and this is" in err) == (3, True)
    code, out, _ = finetune("--resume", path, "--steps", 4)
    assert (code, "4 steps" in out) == (0, True)


def test_adapters_are_applied_taken_out_and_merged(
    finetune: Finetune, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = ["--steps", 4, "--batch", 4, "--move", 0.05, "--schedule", "constant"]
    assert finetune(*far, out="s.cza")[0] == 0
    scales = tmp_path / "s.cza"
    assert finetune(*far, "--method", "codes", "--set", "spread=64", "--adapter", scales, out="c.cza")[0] == 0
    assert finetune(*far, "--method", "state", out="b.cza")[0] == 0
    codes, state = tmp_path / "c.cza", tmp_path / "b.cza"

    def bits(model: Path, *adapters: Path) -> float:
        options = [str(word) for adapter in adapters for word in ("--adapter", adapter)]
        data = ["--data", str(folder / "data.jsonl"), "--chat", "--threads", "1", "--json"]
        assert main(["perplexity", str(model), *data, *options]) == 0
        return json.loads(capsys.readouterr().out)["sources"][-1]["bits_per_byte"]

    copy = tmp_path / "copy"
    shutil.copytree(folder / "model", copy)
    plain, both, three = bits(copy), bits(copy, scales, codes), bits(copy, scales, codes, state)
    assert len({plain, bits(copy, scales), both, three}) == 4
    assert finetune("apply", copy, scales, codes, verb="adapter")[0] == 0
    assert bits(copy) == both
    assert finetune("apply", copy, state, verb="adapter")[0] == 0
    assert bits(copy) == three
    code, out, _ = finetune("undo", copy, verb="adapter")
    assert (code, "003-b.cza" in out, bits(copy)) == (0, True, both)
    assert finetune("merge", copy, "--out", tmp_path / "merged", verb="adapter")[0] == 0
    assert bits(tmp_path / "merged") == both
    for _ in range(2):
        assert finetune("undo", copy, verb="adapter")[0] == 0
    assert bits(copy) == plain
    assert sorted(file.name for file in copy.iterdir()) == ["model.b158", "tokenizer.model"]
    _check_refusals(finetune, tmp_path, copy=copy, codes=codes, state=state)


def _check_refusals(finetune: Finetune, tmp_path: Path, *, copy: Path, codes: Path, state: Path) -> None:
    refused: list[tuple[list[object], int, str]] = [
        (["undo", copy], 2, "no adapter to take out"),
        (["apply", copy], 2, "no adapter is named"),
        (["apply", copy, codes], 3, "was learnt on top of"),
        (["apply", copy / "model.b158", codes], 2, "is no folder"),
        (["apply", make_other(tmp_path / "other"), state], 3, "was learnt on the model"),
        (["merge", copy, state, "--out", tmp_path / "n"], 3, "no file of weights holds"),
        (["merge", copy, "--out", tmp_path / "n"], 2, "nothing to merge"),
        (["merge", copy, state], 2, "--out"),
        (["info", copy / "model.b158"], 3, "is no adapter"),
        (["show", copy], 2, "show"),
    ]
    for arguments, code, words in refused:
        found, out, err = finetune(*arguments, verb="adapter")
        assert (found, out, words in err) == (code, "", True), err
    assert not (copy / "adapters").exists()
    code, out, _ = finetune("info", codes, "--json", verb="adapter")
    (shown,) = json.loads(out)["adapters"]
    assert (code, shown["method"], shown["steps"], len(shown["beneath"])) == (0, "codes", 4, 1)
    assert "codes, 4 steps" in finetune("info", codes, verb="adapter")[1]


def test_a_talk_remembers_its_adapters(
    finetune: Finetune, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("--steps", 1, "--batch", 2)[0] == 0
    talk = tmp_path / "talk.state"
    common = ["run", "-m", str(folder / "model"), "-n", "3", "--seed", "1", "-t", "1"]
    adapter = ["--adapter", str(tmp_path / "a.cza")]

    def run(*words: str) -> tuple[int, Any]:
        code = main([*common, *words])
        return code, capsys.readouterr()

    assert run("Hello", *adapter, "--save", str(talk))[0] == 0
    assert run("And?", *adapter, "--load", str(talk))[0] == 0
    code, shown = run("And?", "--load", str(talk))
    assert code == 3
    assert (
        f"saved with the adapters {read_adapter(tmp_path / 'a.cza').digest[:12]}, and here are none"
        in shown.err
    )
