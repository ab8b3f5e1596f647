"""Bits per byte: what is counted, where documents begin, and how windows join."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import DataError, ModelError, UsageError
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from runtime.measuring.perplexity import ALL_SOURCES, Document, data_files, measure, read_documents, report

SPECIALS = {"<end>": 256, "<|system|>": 257, "<|user|>": 258, "<|assistant|>": 259, "<|im_end|>": 260}


def bytes_tokenizer(*, bos: int | None = None, eos: int | None = 256) -> Tokenizer:
    """A token for every byte: what a document costs can be said by hand."""
    return Tokenizer(
        kind="sentencepiece",
        source="bytes",
        digest="0" * 64,
        token_bytes=(*(bytes([byte]) for byte in range(256)), *(b"" for _ in SPECIALS)),
        specials=SPECIALS,
        bos=bos,
        eos=eos,
        pad=None,
        unk=None,
        lossy_because="",
        adds_leading_space=False,
        encoder=lambda text: list(text.encode()),
    )


class Counter:
    """A model that has learnt from this document alone: p = (times seen + 1) / (ids read + vocabulary)."""

    def __init__(self, vocab_size: int = 300) -> None:
        self.vocab_size = vocab_size
        self.read: list[int] = []
        self.windows: list[tuple[list[int], bool]] = []

    def score(self, ids_T: NDArray[np.int64], *, goes_on: bool) -> NDArray[np.float64]:
        ids = ids_T.tolist()
        self.windows.append((ids, goes_on))
        if goes_on:
            assert self.read[-1] == ids[0]
        else:
            self.read = ids[:1]
        log_probs: list[float] = []
        for token in ids[1:]:
            log_probs.append(math.log((self.read.count(token) + 1) / (len(self.read) + self.vocab_size)))
            self.read.append(token)
        return np.array(log_probs)


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def documents_of(*paths: Path, **options: object) -> list[Document]:
    return list(read_documents(paths, bytes_tokenizer(), **options))


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(tmp_path: Path):
    class Uniform:
        def score(self, ids_T: NDArray[np.int64], *, goes_on: bool) -> NDArray[np.float64]:
            return np.full(len(ids_T) - 1, -math.log(256))

    path = jsonl(tmp_path / "a.jsonl", {"text": "hällo"}, {"text": "x" * 100, "kind": "letters"})
    tallies = measure(Uniform(), documents_of(path), seq_len=10)
    assert {source: round(tally.bits_per_byte, 9) for source, tally in tallies.items()} == {
        "a": 8,
        "a/letters": 8,
        ALL_SOURCES: 8,
    }
    assert [row["bytes"] for row in report(tallies)] == [6, 100, 106]
    assert [row["documents"] for row in report(tallies)] == [1, 1, 2]


@given(
    texts=st.lists(st.text("ab c", min_size=1, max_size=40), min_size=1, max_size=4),
    seq_len=st.integers(1, 50),
)
def test_windows_change_nothing(texts: Sequence[str], seq_len: int):
    tokenizer = bytes_tokenizer()
    documents = [
        Document(
            source="s",
            ids_T=np.array([256, *tokenizer.encode(text)]),
            counted_T=np.array([False] + [True] * len(text)),
            num_bytes=len(text),
        )
        for text in texts
    ]
    whole = measure(Counter(), documents, seq_len=1000)[ALL_SOURCES]
    cut = measure(Counter(), documents, seq_len=seq_len)[ALL_SOURCES]
    assert (whole.tokens, whole.bytes, whole.documents) == (cut.tokens, cut.bytes, cut.documents)
    assert cut.nats == pytest.approx(whole.nats, rel=1e-12)


def test_windows_overlap_by_one_and_documents_begin_anew(tmp_path: Path):
    scorer = Counter()
    measure(scorer, documents_of(jsonl(tmp_path / "a.jsonl", {"text": "abcd"}, {"text": "e"})), seq_len=2)
    a, b, c, d, e = b"abcde"
    assert scorer.windows == [([256, a, b], False), ([b, c, d], True), ([256, e], False)]


@pytest.mark.parametrize(
    ("bos", "eos", "ids", "num_bytes"),
    [(7, 256, [7, 97, 98], 2), (None, 256, [256, 97, 98], 2), (None, None, [97, 98], 1)],
)
def test_what_a_document_begins_with(tmp_path: Path, bos, eos, ids: list[int], num_bytes: int):
    path = jsonl(tmp_path / "a.jsonl", {"text": "ab"})
    (document,) = read_documents([path], bytes_tokenizer(bos=bos, eos=eos))
    assert document.ids_T.tolist() == ids
    assert (document.num_bytes, int(document.counted_T.sum())) == (num_bytes, num_bytes)
    assert not document.counted_T[0]


def test_a_completion_stands_by_itself_without_chat(tmp_path: Path):
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "why?", "completion": "so"})
    (document,) = documents_of(path)
    assert document.ids_T.tolist() == [256, *b"so"]


def test_a_conversation_counts_what_the_assistant_says(tmp_path: Path):
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yö"},
        {"role": "user", "content": "and"},
        {"role": "assistant", "content": "no"},
    ]
    path = jsonl(tmp_path / "a.jsonl", {"messages": messages}, {"prompt": "p", "completion": "cc"})
    template = ChatTemplate.of_tokenizer(bytes_tokenizer())
    talk, answer = documents_of(path, chat=template)
    assert talk.ids_T[talk.counted_T].tolist() == list("yöno".encode())
    assert talk.num_bytes == 5
    assert talk.ids_T[:4].tolist() == [256, SPECIALS["<|user|>"], *b"hi"]
    assert answer.ids_T[answer.counted_T].tolist() == list(b"cc")
    with pytest.raises(DataError, match=r"a\.jsonl:1: a conversation .*plain text"):
        documents_of(path)


def test_files_folders_and_how_many(tmp_path: Path):
    one = jsonl(tmp_path / "one.jsonl", {"text": "a"}, {"text": "b"}, {"text": "c"})
    (tmp_path / "two.txt").write_text("d\n<|endoftext|>\ne\n<|endoftext|>\n")
    (tmp_path / "note.md").write_text("no data")
    assert data_files([tmp_path, one]) == [one, tmp_path / "two.txt", one]
    sources = [document.source for document in documents_of(tmp_path, most=2)]
    assert sources == ["one", "one", "two", "two"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data file below it"):
        documents_of(tmp_path / "empty")


def test_a_model_of_no_numbers_is_refused(tmp_path: Path):
    class Diverged:
        def score(self, ids_T: NDArray[np.int64], *, goes_on: bool) -> NDArray[np.float64]:
            return np.full(len(ids_T) - 1, np.nan)

    with pytest.raises(ModelError, match="the probability nan"):
        measure(Diverged(), documents_of(jsonl(tmp_path / "a.jsonl", {"text": "ab"})), seq_len=4)


def test_nothing_to_score_and_no_window():
    with pytest.raises(DataError, match="no text to score"):
        measure(Counter(), [], seq_len=4)
    with pytest.raises(UsageError, match="a window of 0"):
        measure(Counter(), [], seq_len=0)
