"""From a text to what a prompt foretells: the verbs, the files, and the store that reads what is foretold."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from chronos_moe.intent_file import FILE_NAME, read_intent
from chronos_moe.visit_log import read_visits
from configs.errors import ModelError
from exports.pack_experts import pack_experts
from runtime.cli.main import main
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.experts.foretelling import Foreteller, foreteller_of
from runtime.head import Speaker
from runtime.model_folder import DEMO
from tests.runtime.engine.models import same_bits, tokens_of

TEXT = "Once upon a time there was a small grey cat. It sat by the river and sang to the moon all night. " * 4
LIMIT_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with its experts on disk, and a classifier that was trained by the verbs."""
    folder = tmp_path_factory.mktemp("foretelling")
    pack_experts(DEMO, folder / "model")
    lines = (json.dumps({"text": TEXT[number:]}) for number in range(6))
    (folder / "texts.jsonl").write_text("\n".join(lines))
    log, data = str(folder / "log"), str(folder / "texts.jsonl")
    model = str(folder / "model")
    assert (
        main(["log-experts", model, "--data", data, "--out", log, "--tokens", "300", "--threads", "1"]) == 0
    )
    out = str(folder / "model" / FILE_NAME)
    sizes = ["--steps", "3", "--rows", "4", "--width", "16", "--buckets", "64", "--threads", "1"]
    assert main(["train-intent", log, "--out", out, *sizes]) == 0
    return folder


def test_the_verbs_leave_files_that_belong_to_the_model(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = read_visits(packed / "log")
    assert (len(log.ids_T), log.layers, len(log.passes)) == (300, (3, 7), 3)
    intent = read_intent(packed / "model" / FILE_NAME, model=log.model)
    assert intent.layers == (3, 7)
    np.testing.assert_allclose(intent.usage_LE, log.sets_TLE().mean(axis=0), rtol=1e-6)
    shared = ["--data", str(packed / "texts.jsonl"), "--tokens", "20", "--threads", "1", "--json"]
    assert main(["log-experts", str(DEMO), *shared, "--out", str(packed / "other")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tokens"], told["documents"], told["layers"]) == (20, 1, [3, 7])


def test_what_is_foretold_is_read_before_it_is_asked_for(packed: Path) -> None:
    asked = ExpertsAsked(memory_bytes=10 * 81920, reader="direct", predictor="none")
    with Engine.open(packed / "model", num_threads=1, experts=asked) as engine:
        foreteller = foreteller_of(engine)
        assert foreteller is not None
        assert engine.experts is not None
        store = engine.experts.store
        assert store is not None
        foreteller.foretell(tokens_of(engine.config, 30).tolist())
        wishes = foreteller.wishes
        assert 0 < len(wishes) <= store.slots.num_slots - 2
        end = time.monotonic() + LIMIT_S
        while not all(store.is_there(wish.layer, wish.expert) for wish in wishes):
            assert time.monotonic() < end, "what was foretold has not come"


def test_a_prompt_is_read_as_without(packed: Path) -> None:
    asked = ExpertsAsked(memory_bytes=6 * 81920, reader="direct")
    with (
        Engine.open(packed / "model", num_threads=1, experts=asked) as engine,
        Engine.open(DEMO, num_threads=1) as whole,
    ):
        prompt = tokens_of(engine.config, 20).tolist()
        for one in (engine, whole):
            speaker = Speaker(one)
            speaker.read(state := one.new_state(), prompt, exit_threshold=0.0)
            speaker.read(state, prompt[:1], exit_threshold=0.0)
        assert same_bits(engine.logits(), whole.logits())
        assert engine.experts is not None
        assert engine.experts.report()["reads"] > 0


def test_without_a_classifier_or_without_a_store_nothing_is_foretold(tmp_path: Path) -> None:
    pack_experts(DEMO, tmp_path / "model")
    with Engine.open(tmp_path / "model", num_threads=1) as engine:
        assert foreteller_of(engine) is None
    with Engine.open(DEMO, num_threads=1) as engine:
        assert foreteller_of(engine) is None


def test_the_classifier_of_another_model_is_refused(packed: Path, tmp_path: Path) -> None:
    with Engine.open(packed / "model", num_threads=1) as engine:
        assert engine.experts is not None
        store = engine.experts.store
        assert store is not None
        engine.digest = "f" * 64
        with pytest.raises(ModelError, match="and this is ffffffffffff…"):
            Foreteller(engine, store)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["log-experts", "demo", "--data", "x", "--out", "y", "--tokens", "0"], "--tokens 0"),
        (["log-experts", "demo", "--data", "x", "--out", "/"], "name a file in a folder that is there"),
        (["log-experts", "demo", "--data", "x", "--out", "missing/y"], "name a file in a folder"),
        (["train-intent", "missing", "--out", "/"], "name a file in a folder that is there"),
        (["train-intent", "missing", "--out", "y", "--lr", "0"], "--lr 0"),
        (["train-intent", "missing", "--out", "y", "--heads", "0"], "--heads 0"),
    ],
)
def test_the_verbs_refuse_what_cannot_work(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_log_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_bytes(b"nothing of the kind")
    assert main(["train-intent", str(tmp_path / "log"), "--out", str(tmp_path / "y")]) == 3
    assert "is no log of expert visits" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
