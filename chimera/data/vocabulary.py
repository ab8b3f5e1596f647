"""A tokenizer learnt from the same sources that a model will learn from."""

from collections.abc import Sequence
from pathlib import Path

from chimera.data.sources import Source, texts_of
from configs.text.tokenizer import Tokenizer
from configs.text.training import train_sentencepiece

MOST_LINES = 500_000
"""Lines learnt from, drawn from all sources alike: more take longer and change the vocabulary little."""


def train_tokenizer(
    sources: Sequence[Source],
    *,
    vocab_size: int,
    path: str | Path,
    most_lines: int = MOST_LINES,
    seed: int = 0,
) -> Tokenizer:
    """Learn a SentencePiece vocabulary and write it to `path`; the same sources give the same file."""
    return train_sentencepiece(
        texts_of(sources), out=path, vocab_size=vocab_size, max_lines=most_lines, seed=seed
    )
