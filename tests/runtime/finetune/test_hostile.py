"""Logs that no run wrote are refused with their name, whatever is done with them, and change nothing."""

import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.adapter import Adapter, read_adapter
from quant.container import open_b158
from runtime.adapting.scales import grouped_names
from runtime.cli.main import main
from runtime.model_folder import open_model
from tests.runtime.finetune.forging import forged
from tests.runtime.finetune.learning import PACKED, Finetune

Make = Callable[[str], Adapter]


@pytest.fixture(scope="module")
def honest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A log of two steps by a method."""
    here = tmp_path_factory.mktemp("honest")

    @cache
    def make(method: str) -> Adapter:
        path = here / f"{method}.cza"
        task = ["-m", str(folder / "model"), "--data", str(folder / "data.jsonl"), "-t", "1"]
        run = ["--method", method, "--steps", "2", "--batch", "1", "--decay", "0.01"]
        with redirect_stdout(StringIO()):
            assert main(["finetune", *task, *run, "--out", str(path)]) == 0
        return read_adapter(path)

    return make


@pytest.mark.parametrize("length", [inf, nan, -1e30, 65537.0])
@pytest.mark.parametrize("method", PACKED)
def test_a_length_that_no_step_has(
    finetune: Finetune, honest: Make, folder: Path, tmp_path: Path, method: str, length: float
) -> None:
    bad = forged(honest(method), tmp_path / "bad.cza", numbers=[length])
    before, copy = bad.read_bytes(), tmp_path / "copy"
    shutil.copytree(folder / "model", copy)
    doings: list[tuple[str, list[object]]] = [
        ("finetune", ["--resume", bad, "--steps", 3]),
        ("adapter", ["apply", copy, bad]),
        ("adapter", ["merge", copy, bad, "--out", tmp_path / "merged"]),
    ]
    for verb, arguments in doings:
        code, out, err = finetune(*arguments, verb=verb)
        is_of_state = method == "state" and "merge" in arguments
        words = "no file of weights holds" if is_of_state and np.isfinite(length) else "bad.cza"
        assert (code, out, words in err, "--debug" in err) == (3, "", True, False), err
    assert bad.read_bytes() == before
    assert sorted(path.name for path in copy.iterdir()) == ["model.b158", "tokenizer.model"]
    assert not (tmp_path / "merged").exists()
    code, out, err = finetune("info", bad, verb="adapter")
    assert (code, bool(out)) == ((0, True) if np.isfinite(length) else (3, False)), err


SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("scales", {"epsilon": "nan"}, "says epsilon 'nan'"),
    ("scales", {"epsilon": True}, "says epsilon 'True'"),
    ("scales", {"epsilon": 10**390}, "says epsilon '1000"),
    ("scales", {"epsilon": 0}, "epsilon 0; allowed"),
    ("scales", {"epsilon": -0.02}, "epsilon -0.02; allowed"),
    ("state", {"epsilon": 1e-30}, "epsilon 1e-30; allowed"),
    ("state", {"epsilon": None}, "lacks a setting of the method state: 'epsilon'"),
    ("codes", {"spread": 0}, "spread 0; allowed"),
    ("codes", {"spread": 512.0}, "spread 512.0; allowed"),
    ("codes", {"spread": 2**40}, "allowed are whole numbers"),
    ("scales", {"rounds": 10**9}, "1000000000 rounds, but this model takes"),
    ("codes", {"rounds": 10**30}, "a whole number is needed"),
    ("state", {"rounds": 0}, "0 rounds, but this model takes"),
    ("scales", {"rounds": "x"}, "says rounds 'x'"),
    ("scales", {"rounds": 1.5}, "says rounds '1.5'"),
    ("scales", {"rounds": None}, "lacks a setting"),
    ("scales", {"steps": 2.5}, "says steps '2.5'"),
    ("scales", {"steps": 10**40}, "a whole number is needed"),
    ("scales", {"batch": True}, "says batch 'True'"),
    ("scales", {"batch": -1}, "batch -1; allowed"),
    ("scales", {"unit": 0}, "unit 0; allowed"),
    ("scales", {"patience": -1}, "patience -1; allowed"),
    ("scales", {"pairs": 3}, "was begun with"),
    ("scales", {"rate": 1e300}, "rate 1e+300; allowed"),
    ("scales", {"rate": 0}, "rate 0.0; allowed"),
    ("scales", {"move": "far"}, "says move 'far'"),
    ("scales", {"clip": 1e308}, "clip 1e+308; allowed"),
    ("scales", {"decay": 1}, "decay 1.0; allowed"),
    ("scales", {"schedule": "never"}, "schedule 'never'"),
    ("scales", {"objective": 7}, "objective '7'"),
    ("scales", {"most": "x"}, "says most 'x'"),
    ("scales", {"most": -1.0}, "most -1.0; a slope counts"),
    ("scales", {"most": None}, "does not say most of its run"),
]


@pytest.mark.parametrize(("method", "settings", "words"), SETTINGS)
def test_settings_that_no_run_has_are_not_gone_on_with(
    finetune: Finetune, honest: Make, tmp_path: Path, method: str, settings: dict[str, Any], words: str
) -> None:
    bad = forged(honest(method), tmp_path / "bad.cza", settings=settings)
    before = bad.read_bytes()
    code, out, err = finetune("--resume", bad)
    assert (code, out, "bad.cza" in err, words in err) == (3, "", True, True), err
    assert bad.read_bytes() == before
    assert finetune("info", bad, verb="adapter")[0] == 0


@pytest.mark.parametrize(
    ("exponents", "words"),
    [
        ("0.0:25", "says '0.0:25' of a memory"),
        ("0.0:x", "says '0.0:x' of a memory"),
        ("77.0:1", "the state of layer 77"),
        ("0.9:1", "the state of layer 0 in round 9"),
        ("0.0:" + "9" * 5000, "of a memory"),
    ],
)
def test_memories_that_no_model_has_are_not_applied(
    finetune: Finetune, honest: Make, folder: Path, tmp_path: Path, exponents: str, words: str
) -> None:
    """A folder that has such an adapter could not be opened any more."""
    bad = forged(honest("state"), tmp_path / "bad.cza", settings={"exponents": exponents})
    shutil.copytree(folder / "model", tmp_path / "copy")
    code, out, err = finetune("apply", tmp_path / "copy", bad, verb="adapter")
    assert (code, out, words in err, "bad.cza" in err) == (3, "", True, True), err
    assert not (tmp_path / "copy" / "adapters").exists()


def test_a_rate_that_no_step_has(finetune: Finetune, honest: Make, folder: Path, tmp_path: Path) -> None:
    for rate in (nan, inf, -1.0):
        bad = forged(honest("scales"), tmp_path / "bad.cza", rate=rate)
        code, out, err = finetune("merge", folder / "model", bad, "--out", tmp_path / "m", verb="adapter")
        assert (code, out) == (3, "")
        assert re.search(r"bad\.cza: step 0 of the log gives up (nan|inf|-0\.\d+) of what was learnt", err)


def test_no_move_is_no_move_whatever_its_sign(honest: Make, folder: Path, tmp_path: Path) -> None:
    log = honest("scales")
    paths = [forged(log, tmp_path / f"{zero}.cza", numbers=[zero]) for zero in (0.0, -0.0)]
    files = [open_model(folder / "model", adapters=[path]).file for path in paths]
    with open_b158(folder / "model" / "model.b158") as plain:
        names = grouped_names(plain)
        scales = [[file.ternary(name).scales.copy() for name in names] for file in (*files, plain)]
    assert all(np.array_equal(one, other) for one, other in zip(scales[0], scales[1], strict=True))
    assert any((one != other).any() for one, other in zip(scales[0], scales[2], strict=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", 1e300], "rate 1e+300; allowed"),
        (["--move", 1e300], "move 1e+300; allowed"),
        (["--clip", 1e308], "clip 1e+308; allowed"),
        (["--steps", 10**11], "steps 100000000000; allowed"),
        (["--pairs", 70000], "pairs 70000; allowed"),
        (["--move", 1e20, "--steps", 1], ""),
        (["--rate", 1e30, "--clip", 0, "--steps", 1], ""),
    ],
)
def test_options_that_go_far_are_refused_or_written(
    finetune: Finetune, tmp_path: Path, arguments: list[object], words: str
) -> None:
    code, _, err = finetune("--batch", 1, *arguments)
    if words:
        assert (code, words in err, (tmp_path / "a.cza").exists()) == (2, True, False), err
    else:
        assert (code, err) == (0, "")
        assert read_adapter(tmp_path / "a.cza").num_steps == 1


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("1e31", "gave '1e+31' for"),
        ("1e-40 * next(numbers)", "the usual slope is"),
        ("1.0", "changes no score"),
    ],
)
def test_scores_that_nobody_can_learn_by(finetune: Finetune, tmp_path: Path, score: str, words: str) -> None:
    scorer = tmp_path / "score.py"
    scorer.write_text(
        "import itertools\n"
        "numbers = itertools.count()\n"
        "def score(prompt, answer, completion):\n"
        f"    return {score}\n"
    )
    asked = ["--objective", "score", "--scorer", scorer, "--max-tokens", 1, "--batch", 1, "--steps", 1]
    code, out, err = finetune(*asked)
    assert (code, out, words in err) == (1, "", True), err
