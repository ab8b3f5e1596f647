"""Looks at text that is not learnt from: the same rows each time, each once, and nothing is changed."""

import math
from pathlib import Path

import pytest
import torch

from chimera.data.batches import batches_of
from chimera.data.shards import Shards, build_shards, open_shards
from chimera.data.sources import sources_of
from chimera.mixers.packing import Packing
from chimera.model import ChimeraForCausalLM
from chimera.train.validation import Score, validate
from tests.chimera.data.samples import learnt_tokenizer, sentence, written
from tests.chimera.train.runs import Data
from tests.chimera.train.steps import fresh_step, rows_of_chance, same, weights_of


@pytest.fixture
def model() -> ChimeraForCausalLM:
    return fresh_step().model


def look(model: ChimeraForCausalLM, shards: Shards, *, rows: int = 1, num_rows: int = 1000) -> Score:
    return validate(model, shards, seq_len=64, rows=rows, num_rows=num_rows, bf16=False)


def test_a_score_is_that_of_every_token_once(model: ChimeraForCausalLM, data: Data):
    shards = open_shards(data.seen)
    score = look(model, shards, rows=3)
    batches = batches_of(shards, rows=1, seq_len=64)
    assert batches.plan.num_rows % 3
    assert score.num_tokens == shards.num_tokens - shards.num_documents
    nats = num_bytes = 0.0
    model.eval()
    for number in range(batches.plan.num_rows):
        batch = batches.batch(number)
        ids, labels, resets = (torch.from_numpy(array) for array in batch[:3])
        hidden = model(ids, packing=Packing(resets, batches.max_documents)).hidden_BTD
        nats += model.loss(hidden, labels).item() * batch.num_labels
        num_bytes += batch.num_bytes
    assert score.loss == pytest.approx(nats / score.num_tokens, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)
    assert num_bytes == shards.num_bytes()


def test_a_text_shorter_than_a_batch_is_seen_once(model: ChimeraForCausalLM, data: Data):
    shards = open_shards(data.seen)
    one, many = (look(model, shards, rows=rows) for rows in (1, 1000))
    assert many.num_tokens == one.num_tokens
    assert many.loss == pytest.approx(one.loss, rel=1e-5)


def test_a_long_text_is_looked_at_in_part(model: ChimeraForCausalLM, data: Data):
    shards = open_shards(data.texts)
    score = look(model, shards, num_rows=5)
    assert 0 < score.num_tokens <= 5 * 64 < shards.num_tokens
    assert look(model, shards, num_rows=5) == score
    by_two = look(model, shards, num_rows=5, rows=2)
    assert by_two.num_tokens == score.num_tokens
    assert by_two.loss == pytest.approx(score.loss, rel=1e-5)


def test_a_look_changes_nothing_that_is_learnt(data: Data):
    steps = fresh_step(), fresh_step()
    for number in range(2):
        for step in steps:
            step.run([rows_of_chance(1, 16, seed=number)], step=number)
        look(steps[0].model, open_shards(data.seen), rows=2)
        assert steps[0].model.training
    assert same(weights_of(steps[0]), weights_of(steps[1]))


def test_each_source_has_a_score_of_its_own(model: ChimeraForCausalLM, tmp_path: Path):
    words = learnt_tokenizer(tmp_path / "tokenizer.model")
    records = [{"text": sentence(number), "kind": ("tale", "note")[number % 3 == 0]} for number in range(20)]

    def scored(name: str, chosen: list[dict[str, str]]) -> Score:
        path = written(tmp_path / f"{name}.jsonl", chosen)
        build_shards(sources_of([path]), words, tmp_path / name)
        return look(model, open_shards(tmp_path / name), rows=2)

    both = scored("both", records)
    alone = {kind: scored(kind, [one for one in records if one["kind"] == kind]) for kind in ("tale", "note")}
    assert len(both.by_source) == 2
    for kind, score in alone.items():
        (bits,) = (bits for name, bits in both.by_source.items() if name.endswith(kind))
        assert bits == pytest.approx(score.bits_per_byte, rel=1e-4)
    assert min(both.by_source.values()) < both.bits_per_byte < max(both.by_source.values())


def test_a_score_goes_into_a_log(model: ChimeraForCausalLM, data: Data):
    score = look(model, open_shards(data.seen))
    assert score.as_json() == score._asdict()
