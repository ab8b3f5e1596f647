"""The intent classifier: it learns what prompts foretell, and runs without PyTorch as it learnt."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chronos_moe.checked_file import read_checked, write_checked
from chronos_moe.intent import IntentClassifier, train_intent
from chronos_moe.intent_file import KIND, WHAT, IntentShape, read_intent, write_intent
from chronos_moe.visit_log import VisitLog
from configs.errors import DataError, ModelError, UsageError

SMALL = IntentShape(
    num_layers=2,
    num_experts=6,
    vocab_size=5000,
    num_buckets=64,
    width=32,
    inner_width=64,
    num_heads=2,
    depth=2,
    max_tokens=24,
)


def themed_log(*, num_documents: int = 120, num_tokens: int = 40, seed: int = 0) -> VisitLog:
    """Documents of three themes: a theme's words, and its two experts of six, most of the time."""
    rng = np.random.default_rng(seed)
    themes = rng.integers(0, 3, num_documents).repeat(num_tokens)
    ids = rng.integers(0, 8, themes.size) + 1000 * themes
    chosen = rng.integers(0, 2, (themes.size, 2, 1)) + 2 * themes[:, None, None]
    strays = rng.random(chosen.shape) < 0.1
    chosen = np.where(strays, rng.integers(0, 6, chosen.shape), chosen)
    return VisitLog(
        model="a" * 64,
        vocab_size=5000,
        num_experts=6,
        passes=((1, 0), (2, 0)),
        ids_T=ids.astype(np.uint32),
        begins=np.arange(0, themes.size + 1, num_tokens),
        chosen=chosen.astype(np.uint16),
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_prompts_foretell_what_their_answers_visit(tmp_path: Path):
    log, heard = themed_log(), list[int]()
    model, judged = train_intent(log, SMALL, steps=120, progress=lambda done, of, loss: heard.append(done))
    assert heard == list(range(1, 121))
    assert judged.usage_recall < 0.7
    assert judged.intent_recall > 0.9
    assert judged.intent_recall <= judged.best_recall <= 1
    write_intent(tmp_path / "intent", model.exported(log))
    intent = read_intent(tmp_path / "intent", model=log.model)
    assert intent.layers == (1, 2)
    for document in range(8):
        ids = log.ids_T[log.begins[document] : log.begins[document + 1]][:30].astype(np.int64)
        kept = ids[-SMALL.max_tokens :]
        buckets = torch.from_numpy(SMALL.buckets(kept))[None]
        with torch.no_grad():
            right = torch.sigmoid(model(buckets, torch.ones_like(buckets, dtype=torch.bool)))[0].numpy()
        np.testing.assert_allclose(intent.forecast(ids), right, atol=0.01)
    assert np.array_equal(intent.forecast(ids[:0]), intent.usage_LE)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = IntentClassifier(SMALL)
    buckets = torch.randint(0, 64, (1, 9))
    padded = torch.cat([buckets, torch.randint(0, 64, (1, 11))], dim=1)
    mask = torch.arange(20)[None] < 9
    with torch.no_grad():
        alone, beside = model(buckets, mask[:, :9]), model(padded, mask)
    torch.testing.assert_close(alone, beside)


def test_it_runs_without_torch():
    code = "import chronos_moe.intent_file, chronos_moe.prefill, sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_a_vocabulary_that_has_room_is_not_hashed():
    ids = np.arange(64)
    assert np.array_equal(dataclasses.replace(SMALL, vocab_size=64).buckets(ids), ids)
    hashed = SMALL.buckets(np.arange(5000))
    assert hashed.min() == 0
    assert np.bincount(hashed, minlength=64).max() < 2 * 5000 / 64


def test_what_is_wrong_is_refused(tmp_path: Path):
    log = themed_log(num_documents=2)
    with pytest.raises(DataError, match="2 are needed"):
        train_intent(themed_log(num_documents=1), SMALL, steps=1)
    with pytest.raises(UsageError, match="0 steps"):
        train_intent(log, SMALL, steps=0)
    with pytest.raises(UsageError, match="width is 0"):
        dataclasses.replace(SMALL, width=0)
    with pytest.raises(UsageError, match="5 heads"):
        dataclasses.replace(SMALL, num_heads=5)
    path = tmp_path / "intent"
    model, _ = train_intent(log, SMALL, steps=1)
    intent = model.exported(log)
    with pytest.raises(UsageError, match="the classifier knows 0 to 4999"):
        intent.forecast(np.array([5000]))
    write_intent(path, intent)
    with pytest.raises(ModelError, match="learnt the routing of the model aaaaaaaaaaaa…"):
        read_intent(path, model="b" * 64)
    about, arrays = read_checked(path, kind=KIND, what=WHAT, hint="")
    for key, value, said in (
        ("shape", "{}", "description"),
        ("shape", json.dumps(dataclasses.asdict(SMALL) | {"depth": 10**9}), "description"),
        ("shape", json.dumps(dataclasses.asdict(SMALL) | {"width": 64}), "arrays are not"),
        ("layers", "[1]", "arrays are not"),
    ):
        write_checked(path, arrays, kind=KIND, about={**about, key: value})
        with pytest.raises(ModelError, match=said):
            read_intent(path)
    write_checked(path, {**arrays, "head": arrays["head"] * np.nan}, kind=KIND, about=about)
    with pytest.raises(ModelError, match="no number"):
        read_intent(path)
