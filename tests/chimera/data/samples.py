"""Texts, a tokenizer learnt from them, and token shards without any text behind them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chimera.data.shards import Shards
from configs.text.tokenizer import Tokenizer
from configs.text.training import train_sentencepiece

SAYING = "the cat sat on a mat and saw 17 small birds, ate fish; then it slept until noon. Who knows why?"
WORDS = tuple(SAYING.split())
NUM_WORDS = 300


def sentence(number: int) -> str:
    """A text of its own number."""
    words = [WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(3 + number % 29)]
    return f"{number}: {' '.join(words)}" + ("\nA second line, with “é”." if number % 5 == 0 else "")


def learnt_tokenizer(path: Path) -> Tokenizer:
    """A small SentencePiece tokenizer."""
    return train_sentencepiece(map(sentence, range(300)), out=path, vocab_size=NUM_WORDS, num_threads=1)


def written(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def made_shards(lengths: Sequence[int], *, answers: Sequence[int] | None = None) -> Shards:
    """Shards in which every token is another number, so that each can be found again."""
    count = sum(lengths)
    return Shards(
        folder=Path("nowhere"),
        digest="none",
        tokenizer_digest="none",
        sources=("even", "odd"),
        tokens=np.arange(1, count + 1, dtype=np.uint32),
        answers=np.zeros(count, dtype=np.uint8) if answers is None else np.array(answers, dtype=np.uint8),
        lengths_N=np.array(lengths, dtype=np.int32),
        source_N=np.arange(len(lengths), dtype=np.uint16) % 2,
        id_bytes=np.full(count + 1, 3, dtype=np.uint16),
    )
