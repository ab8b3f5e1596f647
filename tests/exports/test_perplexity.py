"""The torch model as a scorer, and the verb around it."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chimera.saving import load_model
from configs.load import build_config, preset
from exports.b158 import export_b158
from exports.perplexity import TorchScorer, open_scorer
from quant.qat.linear import set_quant_mix
from runtime.cli.main import main
from runtime.engine import Engine
from runtime.measuring.engine_scorer import EngineScorer
from runtime.random_model import random_b158
from tests.exports.conftest import learnt
from tests.exports.test_b158 import run_folder

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("A short tale of a river.", "The river ran down to the sea, and " * 12)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "tales.jsonl"
    records = [{"text": text, "kind": kind} for text, kind in zip(TEXTS, ("short", "long"), strict=True)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path, micro: Path, tokenizer_file: Path) -> Path:
    folder = Path(shutil.copytree(micro, tmp_path / "checkpoint"))
    shutil.copy(tokenizer_file, folder / "tokenizer.model")
    return folder


def ids(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 512, length)


@torch.no_grad()
def test_scores_are_the_log_probabilities_of_the_forward(micro: Path):
    text = ids(40)
    model = load_model(micro)
    logits = model.logits(model(torch.from_numpy(text)[None]).hidden_BTD)[0]
    expected = torch.log_softmax(logits.double(), dim=-1)[torch.arange(39), torch.from_numpy(text)[1:]]
    found = open_scorer(micro).score(text, goes_on=False)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


def test_windows_carry_the_state_on():
    """In float, as rounding to int8 would hide what is compared."""
    model = learnt(preset("micro"))
    set_quant_mix(model, 0.0)
    scorer, text = TorchScorer(model), ids(100)
    whole = scorer.score(text, goes_on=False)
    parts = [scorer.score(text[at : at + 24], goes_on=at > 0) for at in range(0, 99, 23)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(scorer.score(text, goes_on=False), whole)
    forgotten = scorer.score(text[23:47], goes_on=False)
    assert np.abs(forgotten[1:] - whole[24:46]).max() > 1e-3


def test_a_large_vocabulary_goes_through_the_head_in_pieces(micro: Path, monkeypatch: pytest.MonkeyPatch):
    text, scorer = ids(30), open_scorer(micro)
    at_once = scorer.score(text, goes_on=False)
    monkeypatch.setattr("exports.perplexity._LOGITS_AT_ONCE", 7 * 512)
    np.testing.assert_allclose(scorer.score(text, goes_on=False), at_once, rtol=0, atol=1e-5)


def test_rounds_are_those_asked_for(micro: Path):
    text = ids(20)
    one, two, by_config = (open_scorer(micro, rounds=rounds) for rounds in (1, 2, None))
    default = preset("micro").rounds_default
    assert default == 2
    np.testing.assert_array_equal(by_config.score(text, goes_on=False), two.score(text, goes_on=False))
    assert np.abs(one.score(text, goes_on=False) - two.score(text, goes_on=False)).max() > 1e-4


def test_tokens_leave_the_loop_as_the_config_says(tmp_path: Path):
    """A checkpoint and a packed model alike; what is asked goes before it.

    The first round changes everything, so that with a threshold of 1 it is the second behind which all leave.
    """
    looping = {"adaptive_exit_threshold": 1.0, "loop_default": 4}
    config = build_config({"preset": "micro", "looping": looping}, source="test")
    text, model = ids(30), learnt(config)
    two_rounds = TorchScorer(model, rounds=2, exit_threshold=0.0).score(text, goes_on=False)
    np.testing.assert_allclose(TorchScorer(model).score(text, goes_on=False), two_rounds, rtol=0, atol=1e-4)
    asked = TorchScorer(model, exit_threshold=0.0).score(text, goes_on=False)
    assert np.abs(asked - two_rounds).max() > 1e-4
    random_b158(config, tmp_path / "model.b158")
    with Engine.open(tmp_path / "model.b158", num_threads=1) as engine:
        scores = [
            EngineScorer(engine, rounds=rounds, exit_threshold=threshold).score(text, goes_on=False)
            for rounds, threshold in ((None, None), (2, 0.0), (None, 0.0))
        ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[2] - scores[0]).max() > 1e-4


def test_the_verb_prints_a_row_a_source(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["perplexity", str(checkpoint), "--data", str(data), "--seq-len", "16", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = {row["source"]: row for row in answer["sources"]}
    assert list(rows) == ["tales/short", "tales/long", "all"]
    assert rows["tales/long"]["bytes"] == len(TEXTS[1])
    assert rows["all"]["bytes"] == sum(map(len, TEXTS))
    # A model that has learnt nothing spends about a whole word on each token.
    assert rows["all"]["nats_per_token"] == pytest.approx(math.log(512), rel=0.1)
    assert (
        main(["perplexity", str(checkpoint), "--data", str(data), "--documents", "1", "--threads", "1"]) == 0
    )
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["source", "documents", "tokens", "bytes", "bits/byte", "nats/token"]
    assert [line.split()[0] for line in table[1:]] == ["tales/short", "all"]
    assert len({len(line) for line in table}) == 1


def test_replies_are_scored_by_the_template(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    talk = tmp_path / "talk.jsonl"
    talk.write_text(json.dumps({"prompt": "Where does it end?", "completion": "In the sea."}) + "\n")
    assert main(["perplexity", str(checkpoint), "--data", str(talk), "--chat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][-1]["bytes"] == len("In the sea.")


def test_a_run_is_scored_at_its_newest_step(
    tmp_path: Path, data: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
):
    models = [learnt(preset("micro"), seed=seed) for seed in (1, 2)]
    run = run_folder(tmp_path / "run", *models)
    options = ["--data", str(data), "--tokenizer", str(tokenizer_file), "--json"]
    assert main(["perplexity", str(run), *options]) == 0
    text = ids(20)
    capsys.readouterr()
    np.testing.assert_array_equal(
        open_scorer(run).score(text, goes_on=False), TorchScorer(models[1]).score(text, goes_on=False)
    )


WITHOUT_TORCH = """
import sys
from runtime.cli.main import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def test_the_engine_scores_a_packed_model_as_torch_does(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """And without PyTorch. The two round to int8 after sums in another order, so they agree only closely."""
    export_b158(checkpoint, tmp_path / "packed")
    options = ["--data", str(data), "--json", "--seq-len", "50", "--threads", "1"]
    command = [sys.executable, "-c", WITHOUT_TORCH, "perplexity", str(tmp_path / "packed"), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    packed = json.loads(result.stdout)
    assert main(["perplexity", str(checkpoint), *options]) == 0
    unpacked = json.loads(capsys.readouterr().out)
    assert (packed["computed_by"], unpacked["computed_by"]) == ("engine", "torch")
    for ours, theirs in zip(packed["sources"], unpacked["sources"], strict=True):
        for measure in ("nats_per_token", "bits_per_byte"):
            assert ours.pop(measure) == pytest.approx(theirs.pop(measure), rel=2e-3)
        assert ours == theirs


def test_the_engine_carries_its_state_over_windows(micro: Path, tmp_path: Path):
    export_b158(micro, tmp_path)
    with Engine.open(tmp_path, num_threads=1) as engine:
        scorer, text = EngineScorer(engine), ids(100)
        whole = scorer.score(text, goes_on=False)
        parts = [scorer.score(text[at : at + 24], goes_on=at > 0) for at in range(0, 99, 23)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        one = EngineScorer(engine, rounds=1).score(text, goes_on=False)
    assert np.abs(one - whole).max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing", "--data", "x.jsonl"], 3, "no such folder"),
        (["model.b158", "--data", "x.jsonl"], 3, "there is no file model.b158"),
        (["{checkpoint}", "--data", "nothing.jsonl"], 1, "nothing.jsonl"),
        (["{checkpoint}"], 2, "--data"),
        (["{checkpoint}", "--data", "{data}", "--seq-len", "0"], 2, "--seq-len 0"),
        (["{checkpoint}", "--data", "{data}", "--rounds", "9"], 2, "takes 1 to 4"),
        (["{checkpoint}", "--data", "{data}", "--threads", "0"], 2, "--threads 0"),
        (["{bare}", "--data", "{data}"], 3, "no tokenizer in or beside it"),
    ],
)
def test_what_cannot_work_is_said(
    checkpoint: Path,
    micro: Path,
    data: Path,
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
):
    filled = [one.format(checkpoint=checkpoint, data=data, bare=micro) for one in arguments]
    assert main(["perplexity", *filled]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err


def test_weights_that_are_quantised_once_give_the_same_scores(micro: Path):
    text = ids(60)
    held, learning = open_scorer(micro), TorchScorer(load_model(micro))
    np.testing.assert_array_equal(held.score(text, goes_on=False), learning.score(text, goes_on=False))
    assert not any(parameter.is_meta for parameter in held.model.parameters())
    assert not held.model.training
