"""Training: the same file every time, written whole or not at all, and errors that name the limit."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import DataError, TokenizerError
from configs.text import training
from configs.text.tokenizer import open_tokenizer
from configs.text.training import DEFAULT_SPECIALS, train_sentencepiece
from tests.configs.text.conftest import corpus


def test_special_tokens_unknown_and_bytes_have_the_first_ids(unigram_file: Path) -> None:
    tokenizer = open_tokenizer(unigram_file)
    assert dict(tokenizer.specials) == {name: token for token, name in enumerate(DEFAULT_SPECIALS)}
    assert tokenizer.unk == len(DEFAULT_SPECIALS)
    assert tokenizer.is_lossless


def test_own_special_tokens_in_their_order(tmp_path: Path) -> None:
    names = ("<|endoftext|>", "<tool,call>", "<|pad|>")
    tokenizer = train_sentencepiece(corpus(), out=tmp_path / "x.model", vocab_size=400, specials=names)
    assert dict(tokenizer.specials) == {"<|endoftext|>": 0, "<tool,call>": 1, "<|pad|>": 2}
    assert (tokenizer.eos, tokenizer.pad, tokenizer.unk) == (0, 2, 3)
    assert tokenizer.decode(tokenizer.encode("a<tool,call>b")) == "a<tool,call>b"


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_same_texts_give_the_same_file_in_another_process(tmp_path: Path, model_type: str) -> None:
    code = (
        "import sys; from configs.text.training import train_sentencepiece\n"
        "from tests.configs.text.conftest import corpus\n"
        "out, kind = sys.argv[1:]\n"
        "train_sentencepiece(corpus(), out=out, vocab_size=350, model_type=kind, max_lines=300)"
    )
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name), model_type], check=True)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_another_seed_takes_another_sample(tmp_path: Path) -> None:
    digests = [
        train_sentencepiece(
            corpus(), out=tmp_path / "x.model", vocab_size=350, max_lines=300, seed=seed, model_type="bpe"
        ).digest
        for seed in (1, 2, 1)
    ]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_no_piece_crosses_a_line_or_holds_what_bytes_spell(tmp_path: Path, model_type: str) -> None:
    texts = ["one\ntwo\tthree\rfour\0five\u2581six " * 2000, corpus()[0]]
    tokenizer = train_sentencepiece(texts, out=tmp_path / "x.model", vocab_size=500, model_type=model_type)
    pieces = [data for data in tokenizer.token_bytes if data and len(data) > 1]
    assert b"two" in pieces
    assert b" one" in pieces
    assert not any(set(data) & set(b"\n\t\r\0") or "\u2581".encode() in data for data in pieces)


def test_long_lines_are_learnt_and_not_left_out(tmp_path: Path) -> None:
    line = "supercalifragilistic " * 20_000
    tokenizer = train_sentencepiece(
        [line, "x" * 50_000], out=tmp_path / "x.model", vocab_size=300, model_type="bpe"
    )
    assert len(tokenizer.encode(" supercalifragilistic")) <= 3
    assert len(tokenizer.encode("x" * 64)) <= 8


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "too large": ({"vocab_size": 100_000}, "Vocabulary size too high (100000). Please set it to a value <= "),
    "too small for the letters": ({"vocab_size": 264}, "Vocabulary size is smaller than required_chars"),
    "too small for the bytes": ({"vocab_size": 263}, "vocab_size 263; allowed: 264 to 1000000"),
    "no text": ({"texts": []}, "the texts hold nothing to learn from"),
    "blank text": ({"texts": ["", "\n\n", "\t"]}, "the texts hold nothing to learn from"),
    "another kind": ({"model_type": "word"}, "model_type 'word'; allowed: unigram, bpe"),
    "no padding": ({"specials": ["<|endoftext|>"]}, "'<|pad|>' must be among them"),
    "twice": ({"specials": [*DEFAULT_SPECIALS, "<|user|>"]}, "'<|user|>' is named twice"),
    "empty name": ({"specials": [*DEFAULT_SPECIALS, ""]}, "'' cannot name a special token"),
    "space in a name": ({"specials": [*DEFAULT_SPECIALS, "<a b>"]}, "'<a b>' cannot name a special token"),
    "name of a byte": ({"specials": [*DEFAULT_SPECIALS, "<0x0A>"]}, "'<0x0A>' cannot name a special token"),
    "name of unknown": (
        {"specials": [*DEFAULT_SPECIALS, "<|unk|>"]},
        "'<|unk|>' cannot name a special token",
    ),
    "half a pair": ({"texts": ["fine", "\ud800"]}, "text 2 to train on holds half of a surrogate pair"),
    "no folder": ({"out": "/nowhere/at/all/x.model"}, "no such folder to write to"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_and_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    old = tmp_path / "x.model"
    old.write_bytes(b"old")
    options, words = REFUSED[name]
    with pytest.raises(TokenizerError) as caught:
        train_sentencepiece(**{"texts": corpus(), "out": old, "vocab_size": 400, **options})
    assert words in caught.value.message
    assert len(caught.value.message.splitlines()) == 1
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_an_error_of_the_texts_comes_through_unchanged(tmp_path: Path) -> None:
    def texts() -> Iterator[str]:
        yield corpus()[0]
        raise DataError("data.jsonl:7: bad")

    with pytest.raises(DataError, match=r"^data\.jsonl:7: bad$"):
        train_sentencepiece(texts(), out=tmp_path / "x.model", vocab_size=400)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_no_part_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    old = tmp_path / "x.model"
    old.write_bytes(b"old")
    monkeypatch.setattr(training.os, "fsync", full)
    with pytest.raises(TokenizerError, match=r"x\.model: cannot be written: No space left on device"):
        train_sentencepiece(corpus(), out=old, vocab_size=400)
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]
