"""Needles for the first proof as ids, made where a tokenizer is; the machine that trains needs none.

A needle is a secret word of somebody, put among the sentences of a text and asked for after it. There are two
sets: practice, whose answers are learnt during training, in texts of the training data or among short asides;
and questions in validation texts of three lengths with the needle at five depths, each with its right answer
and with another word.
"""

import itertools
import math
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.proof_tasks import NAME, Rows
from chimera.data.batches import IGNORED
from chimera.data.conversations import Conversations
from chimera.data.generated import Task, needle, task
from chimera.data.sources import sources_of, texts_of
from configs.errors import DataError, UsageError
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from quant.atomic import atomic_file

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHARES = (4, 2, 1)
"""A question's text is the row's length divided by one of these."""
MOST_TEXTS = 4000
"""Of which the sentences of haystacks are taken."""
LEAST_TEXT = 64
"""Ids of the shortest practice in a text, its question and answer among them."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def make_needles(
    work: Path,
    tokenizer: Tokenizer,
    *,
    train: Sequence[Path],
    validation: Sequence[Path],
    seq_len: int,
    practice_rows: int,
    questions: int,
    seed: int = 0,
) -> Path:
    """Write the needles of a proof into its folder; `questions` are for each length and depth."""
    writer = _Writer(tokenizer, seq_len=seq_len)
    practice = writer.practice(_sentences(train, seed=seed), rows=practice_rows, seed=seed)
    held_out = _sentences(validation, seed=seed)
    cells = [(seq_len // share, depth) for share in SHARES for depth in DEPTHS for _ in range(questions)]
    asked = [
        writer.question(held_out, length=length, depth=depth, seed=f"{seed}/{number}")
        for number, (length, depth) in enumerate(cells)
    ]
    work.mkdir(parents=True, exist_ok=True)
    path = work / NAME
    with atomic_file(path) as file:
        np.savez_compressed(
            file,
            practice_ids=practice.ids_BT.astype(np.uint16),
            practice_labels=practice.labels_BT.astype(np.int32),
            practice_resets=practice.resets_BT,
            right=np.stack([one[0] for one in asked]),
            right_answer=np.stack([one[1] for one in asked]),
            wrong=np.stack([one[2] for one in asked]),
            wrong_answer=np.stack([one[3] for one in asked]),
            length=np.array([length for length, _ in cells]),
            depth=np.array([depth for _, depth in cells]),
        )
    return path


class _Writer:
    """Needles as ids, as the documents of token shards are."""

    def __init__(self, tokenizer: Tokenizer, *, seq_len: int) -> None:
        if tokenizer.eos is None or tokenizer.vocab_size > 2**16:
            raise UsageError(f"the tokenizer {tokenizer.source} has no end of text, or more than {2**16} ids")
        self.seq_len, self.end = seq_len, tokenizer.eos
        self.begin = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
        self.tokenizer = tokenizer
        self.conversations = Conversations(ChatTemplate.of_tokenizer(tokenizer), tokenizer)

    def practice(self, sentences: Sequence[str], *, rows: int, seed: int) -> Rows:
        """Rows filled with needles in short asides and in texts by turns; answers alone have labels."""
        draw = random.Random(f"practice/{seed}")
        most = max(4, self.seq_len // 64)
        made = Rows(
            np.zeros((rows, self.seq_len), dtype=np.int64),
            np.full((rows, self.seq_len), IGNORED, dtype=np.int64),
            np.zeros((rows, self.seq_len), dtype=np.bool_),
        )
        documents = self._documents(sentences, draw)
        waiting = next(documents)
        for row in range(rows):
            filled = 0
            for _ in range(most):
                ids, answers = waiting
                size = len(ids) - 1
                if filled + size > self.seq_len:
                    break
                here = slice(filled, filled + size)
                made.ids_BT[row, here] = ids[:-1]
                made.labels_BT[row, here] = np.where(answers[1:], ids[1:], IGNORED)
                made.resets_BT[row, filled] = True
                filled += size
                waiting = next(documents)
            if filled < self.seq_len:
                made.resets_BT[row, filled] = True
        return made

    def question(
        self, sentences: Sequence[str], *, length: int, depth: float, seed: str
    ) -> tuple[NDArray[np.uint16], NDArray[np.bool_], NDArray[np.uint16], NDArray[np.bool_]]:
        """A needle of a length, with its right answer and with a wrong one."""
        draw = random.Random(f"question/{length}/{depth}/{seed}")
        made = self._fitted(sentences, draw, length=length, depth=depth)
        return (*self._padded(made.prompt, made.answer), *self._padded(made.prompt, made.rejected))

    def _documents(
        self, sentences: Sequence[str], draw: random.Random
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        for number in itertools.count():
            if number % 2:
                made = task(number, seed=draw.randrange(2**32), kind="needle")
            else:
                # As many short texts as long ones: a row of long ones alone would ask two questions.
                length = round(math.exp(draw.uniform(math.log(LEAST_TEXT), math.log(self.seq_len))))
                made = self._fitted(sentences, draw, length=length, depth=draw.random())
            ids, answers = self._ids(made.prompt, made.answer)
            if len(ids) <= self.seq_len:
                yield ids, answers

    def _fitted(self, sentences: Sequence[str], draw: random.Random, *, length: int, depth: float) -> Task:
        """A needle in so many sentences in a row that it is as long as it may be."""
        first, seed = draw.randrange(len(sentences)), draw.randrange(2**32)

        def made(count: int) -> Task:
            haystack = [sentences[(first + number) % len(sentences)] for number in range(count)]
            return needle(random.Random(seed), haystack=haystack, depth=depth)

        def fits(count: int) -> bool:
            one = made(count)
            return all(
                len(self._ids(one.prompt, answer)[0]) <= length for answer in (one.answer, one.rejected)
            )

        if not fits(0):
            raise UsageError(f"no needle fits into {length} ids", hint="Choose a longer --seq-len.")
        low, high = 0, 1
        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return made(low)

    def _ids(self, prompt: str, answer: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        ids, answers = self.conversations.encode_answer(prompt, answer)
        if ids[0] != self.begin:
            ids, answers = [self.begin, *ids], [False, *answers]
        return np.array([*ids, self.end]), np.array([*answers, False])

    def _padded(self, prompt: str, answer: str) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        ids, answers = self._ids(prompt, answer)
        row = np.zeros(self.seq_len + 1, dtype=np.uint16)
        marked = np.zeros(self.seq_len + 1, dtype=np.bool_)
        row[: len(ids)], marked[: len(ids)] = ids, answers
        return row, marked


def _sentences(paths: Sequence[Path], *, seed: int) -> list[str]:
    """Sentences of some texts, each text's own in their order."""
    texts = itertools.islice(texts_of(sources_of(paths)), MOST_TEXTS)
    found = [
        sentence for text in texts for sentence in SENTENCE_END.split(" ".join(text.split())) if sentence
    ]
    if not found:
        raise DataError(f"no sentence in {', '.join(map(str, paths))}")
    # Another place of the same data for another seed.
    start = random.Random(seed).randrange(len(found))
    return found[start:] + found[:start]
