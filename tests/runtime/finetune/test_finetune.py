"""`chimera finetune`: it learns, a killed run goes on to the same bytes, and what is wrong is told."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.errors import ChimeraError
from quant.adapter import LOOK, AdapterHeader, Record, read_adapter
from quant.adapter_log import AdapterLog
from runtime.cli.main import main
from runtime.finetune.losses import Losses
from runtime.finetune.method import Item
from runtime.finetune.scorer import Scorer
from tests.runtime.finetune.learning import HALTING, Finetune, chimera, make_other


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
    # Four records are looked at: at the last answer to the look after 8 steps, then at the second after 16.
    for call, steps in ((12, 8), (10, 16)):
        (tmp_path / "halting.py").write_text(HALTING.format(call=call))
        process = chimera(*command, *more, "--scorer", tmp_path / "halting.py")
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n", process.communicate()[1]
        process.kill()
        process.communicate()
        assert read_adapter(path).num_steps == steps
        more = ["--resume", path, "--val-share", 0.3, "--scorer", folder / "score.py"]
    # What a killed writer may leave beside.
    path.write_bytes(path.read_bytes()[:-5])
    code, out, err = finetune(*more)
    assert (code, err) == (0, "")
    assert "30 steps" in out
    assert path.read_bytes() == (tmp_path / "whole.cza").read_bytes()


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


def test_looks_of_a_run_that_goes_on_are_at_the_same_data_by_the_same_measure(
    finetune: Finetune, folder: Path, tmp_path: Path
) -> None:
    path, val = tmp_path / "a.cza", tmp_path / "val.jsonl"
    val.write_text('{"prompt": "Hello", "completion": "yes"}\n')
    scorer = ["--scorer", folder / "score.py", "--max-tokens", 1]
    begin = ["--steps", 2, "--batch", 2, "--look-every", 1, "--patience", 5, "--val", val]
    assert finetune(*begin, *scorer)[0] == 0
    before = path.read_bytes()
    go_on = ["--resume", path, "--steps", 3]
    refused: list[tuple[list[object], str]] = [
        (scorer[:2], "validation "),
        (["--val", val], "scorer there, not none"),
        (["--val", folder / "data.jsonl", *scorer[:2]], "validation "),
    ]
    for arguments, words in refused:
        code, out, err = finetune(*go_on, *arguments)
        assert (code, out, "was begun with" in err, words in err) == (3, "", True, True), err
        assert path.read_bytes() == before


def test_a_run_that_was_ended_before_its_header_begins_anew(finetune: Finetune, tmp_path: Path) -> None:
    path = tmp_path / "a.cza"
    path.write_bytes(b"")
    code, _, err = finetune("--resume", path)
    assert (code, "no adapter yet" in err, "--out" in err) == (3, True, True)
    assert finetune("--steps", 1, "--batch", 1)[0] == 0
    assert read_adapter(path).num_steps == 1


def test_looks_that_found_no_number_are_told(
    finetune: Finetune, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of logs that somebody else wrote."""
    header = AdapterHeader(method="scales", base="ab", seed=1, settings={})
    with AdapterLog.begin(tmp_path / "nan.cza", header) as log:
        log.append(Record(kind=LOOK, step=0, loss=float("nan"), rate=float("inf")))
        log.append(Record(step=0, loss=float("nan"), numbers=(1.0,)))
    code, out, _ = finetune("info", tmp_path / "nan.cza", "--json", verb="adapter")
    (shown,) = json.loads(out)["adapters"]
    assert (code, shown["looks"]) == (0, [{"step": 0, "loss": None, "score": None}])
    assert "no number" in finetune("info", tmp_path / "nan.cza", verb="adapter")[1]
    monkeypatch.setattr(Losses, "of", lambda _, items: np.full(len(items), np.nan))
    code, _, err = finetune("--steps", 1, "--rate", 1, "--clip", 0, "--val", folder / "data.jsonl")
    assert (code, "is no number" in err) == (1, True)


def test_no_more_than_a_unit_is_looked_at_at_once(
    finetune: Finetune, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    of = Losses.of

    def counted(self: Losses, items: Sequence[Item]) -> NDArray[np.float64]:
        sizes.append(len(items))
        return of(self, items)

    monkeypatch.setattr(Losses, "of", counted)
    assert finetune("--steps", 1, "--batch", 1, "--val", folder / "data.jsonl")[0] == 0
    # Twelve records, before the step and behind it.
    assert [size for size in sizes if size != 1] == [8, 4, 8, 4]


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
        (DEFINED + "    return 10**5000\n", "gave 'a number too large' for"),
        (DEFINED + "    raise SystemExit(7)\n", "score.py:2: the scorer raised SystemExit: 7"),
        ("import sys\nsys.exit(0)\n", "score.py:2: the scorer cannot be loaded: SystemExit"),
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


def test_a_scorer_is_found_beside_and_gives_numbers_of_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    item = cast(Item, SimpleNamespace(prompt="", answer="1", file="a", line=1))
    Path("score.py").write_text("import numpy as np\n" + DEFINED + "    return np.float32(answer)\n")
    assert Scorer(Path("score.py"))(item, "") == 1.0
    Path("score.py").write_text(DEFINED + "    return 1 / 0\n")
    os.utime("score.py", ns=(1, 1))  # or what was compiled before counts as this
    with pytest.raises(ChimeraError, match=r"^score\.py:2: the scorer raised ZeroDivision"):
        Scorer(Path("./score.py"))(item, "")


def test_what_a_run_was_told_stays(finetune: Finetune, folder: Path, tmp_path: Path) -> None:
    assert finetune("--steps", 2, "--batch", 2)[0] == 0
    assert "is there already" in finetune("--steps", 2)[2]
    path = tmp_path / "a.cza"
    code, _, err = finetune("--resume", path, "--batch", 3)
    assert (code, "batch" in err) == (2, True)
    code, _, err = finetune("--resume", path, "--out", path)
    assert (code, "both of --out" in err, "one of them is needed" in err) == (2, True, True)
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
