"""What a run reads: shards as they are, or made of texts beside the run, with the tokenizer that fits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chimera.data.shards import open_shards
from chimera.train.inputs import Inputs, data_folder, open_inputs
from configs.errors import UsageError
from configs.load import build_config
from tests.chimera.data.samples import SAYING, WORDS, sentence, written
from tests.chimera.train.runs import Data


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return written(tmp_path / "text.jsonl", [{"text": sentence(number)} for number in range(300)])


def opened(out: Path, *data: Path, vocab_size: int = 512, **more: Any) -> tuple[Inputs, list[str]]:
    config = build_config({"preset": "micro", "vocab_size": vocab_size}, source="test")
    said: list[str] = []
    asked = {"validation": (), "tokenizer": None, "train_tokenizer": None, "beside": None, "chat_share": 1.0}
    return open_inputs(config, data=data, out=out, say=said.append, **(asked | more)), said


def test_texts_become_shards_beside_the_run(text: Path, data: Data, tmp_path: Path):
    out = tmp_path / "run"
    made, said = opened(out, text, validation=[text], tokenizer=str(data.tokenizer))
    assert made.validation is not None
    assert not out.exists()
    assert data_folder(out) == tmp_path / "run.data"
    for name, shards in (("train", made.train), ("validation", made.validation)):
        assert shards.folder == tmp_path / "run.data" / name
        assert open_shards(shards.folder).digest == shards.digest
    assert said[0] == "reading text.jsonl"
    assert f"{made.train.num_tokens:,} tokens in 300 documents" in said
    assert made.digests() == {"data": made.train.digest, "tokenizer": made.train.tokenizer_digest}
    # Opened again, they are the same, and nothing is written anew.
    before = (made.train.folder / "tokens.bin").stat().st_mtime_ns
    again, _ = opened(out, text, tokenizer=str(data.tokenizer))
    assert again.digests() == made.digests()
    assert (made.train.folder / "tokens.bin").stat().st_mtime_ns == before


def test_a_tokenizer_is_learnt_once(text: Path, tmp_path: Path):
    out = tmp_path / "run"
    made, said = opened(out, text, train_tokenizer=300)
    assert said[0] == "learning a vocabulary of 300"
    assert made.tokenizer == tmp_path / "run.data" / "tokenizer.model"
    again, said = opened(out, text, train_tokenizer=300)
    assert again.digests() == made.digests()
    assert not any("learning" in line for line in said)
    with pytest.raises(UsageError, match="with 300 words instead of 310"):
        opened(out, text, train_tokenizer=310)


def test_a_tokenizer_is_found_beside_the_config(text: Path, data: Data, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no tokenizer is named"):
        opened(tmp_path / "run", text, beside=folder / "config.json")
    shutil.copyfile(data.tokenizer, folder / "tokenizer.model")
    for beside in (folder, folder / "config.json"):
        assert opened(tmp_path / "run", text, beside=beside)[0].tokenizer == folder / "tokenizer.model"
    # A folder may be named too.
    made, _ = opened(tmp_path / "other", text, tokenizer=str(folder))
    assert made.tokenizer == folder / "tokenizer.model"


def test_shards_find_the_tokenizer_that_they_were_made_with(data: Data, tmp_path: Path):
    near, said = opened(tmp_path / "run", data.texts, validation=[data.seen])
    assert near.tokenizer == data.tokenizer
    assert said == []
    alone = shutil.copytree(data.texts, tmp_path / "moved" / "texts")
    made, said = opened(tmp_path / "run", alone)
    assert made.tokenizer is None
    assert "no tokenizer of these shards was found" in said[0]
    made.copy_tokenizer(tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()
    # One that lies beside them and is another does not count.
    other = learnt_tokenizer_of_other_words(alone.parent / "tokenizer.model")
    assert opened(tmp_path / "run", alone)[0].tokenizer is None
    with pytest.raises(UsageError, match="was made with another tokenizer"):
        opened(tmp_path / "run", alone, tokenizer=str(other))
    assert opened(tmp_path / "run", alone, tokenizer=str(data.tokenizer))[0].tokenizer == data.tokenizer


def learnt_tokenizer_of_other_words(path: Path) -> Path:
    from configs.text.training import train_sentencepiece

    texts = [f"{word} {SAYING[::-1]} {number}" for number, word in enumerate(WORDS * 10)]
    train_sentencepiece(texts, out=path, vocab_size=300, num_threads=1)
    return path


def test_a_tokenizer_lies_beside_the_model_under_its_own_name(data: Data, tmp_path: Path):
    named = tmp_path / "words.model"
    shutil.copyfile(data.tokenizer, named)
    made, _ = opened(tmp_path / "run", data.texts, tokenizer=str(named))
    (tmp_path / "model").mkdir()
    made.copy_tokenizer(tmp_path / "model")
    assert (tmp_path / "model" / "tokenizer.model").read_bytes() == named.read_bytes()
    for name in ("mine.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps({"name": name}))
    Inputs(train=made.train, validation=None, tokenizer=tmp_path / "mine.json").copy_tokenizer(
        tmp_path / "model"
    )
    assert json.loads((tmp_path / "model" / "tokenizer.json").read_text()) == {"name": "mine.json"}
    assert (tmp_path / "model" / "tokenizer_config.json").exists()


def test_what_does_not_fit_together_is_refused(text: Path, data: Data, tmp_path: Path):
    with pytest.raises(UsageError, match="token shards, which stands alone"):
        opened(tmp_path / "run", data.texts, text)
    with pytest.raises(UsageError, match="300 words, the config's vocab_size is 256"):
        opened(tmp_path / "run", data.texts, vocab_size=256)
    with pytest.raises(UsageError, match="300 words, the config's vocab_size is 256"):
        opened(tmp_path / "run", text, tokenizer=str(data.tokenizer), vocab_size=256)
    other = learnt_tokenizer_of_other_words(tmp_path / "other.model")
    seen, _ = opened(tmp_path / "second", text, tokenizer=str(other))
    with pytest.raises(UsageError, match="made with different tokenizers"):
        opened(tmp_path / "run", data.texts, validation=[seen.train.folder])
