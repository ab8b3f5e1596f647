"""Packed rows in the order of training, as a function of the step alone: any step can be asked for.

The rows are packed once and shuffled anew for each pass over the data, so the place of a run in its data is
one number. Workers take rows of the same batch by their rank.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chimera.data.packing import Plan, pack
from chimera.data.shards import Shards
from configs.errors import UsageError

IGNORED = -100


class Batch(NamedTuple):
    """Some rows. Every token belongs to one document; a row's unused places belong to one of their own."""

    ids_BT: NDArray[np.int64]
    labels_BT: NDArray[np.int64]  # the token that follows, -100 where there is no loss
    resets_BT: NDArray[np.bool_]  # true at a document's first token
    num_labels: int
    num_bytes: int  # of text that the labelled tokens stand for
    continues: bool  # whether these rows go on where those of the step before ended
    sources_BT: NDArray[np.uint16]  # number of each token's source in Shards.sources; 0 in unused places


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batches:
    """The batches of some shards."""

    shards: Shards
    plan: Plan
    rows: int
    """Rows of a batch, all workers' together."""
    seq_len: int
    length: int
    """Tokens of a packed row; more than `seq_len` where a row is gone through in several steps."""
    max_documents: int
    """Most documents of a row, one more for unused places: a constant, as shapes depend on it."""
    seed: int
    answers_only: bool
    rank: int = 0
    world: int = 1

    @property
    def slices(self) -> int:
        """Batches that go through one set of rows."""
        return self.length // self.seq_len

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one pass over the data, the last one filled up from the next pass."""
        return -(-self.plan.num_rows // self.rows) * self.slices

    @property
    def efficiency(self) -> float:
        """Share of the places that hold a token."""
        return self.plan.efficiency(self.length)

    def shard(self, rank: int, world: int) -> "Batches":
        """The rows of one worker of several."""
        if world < 1 or not 0 <= rank < world:
            raise UsageError(f"worker {rank} of {world}; workers count from 0 on")
        if self.rows % world:
            raise UsageError(
                f"{self.rows} rows do not divide among {world} workers", hint="Choose a multiple of them."
            )
        return dataclasses.replace(self, rank=rank, world=world)

    def batch(self, number: int) -> Batch:
        """Batch `number` of the run, from 0 on. It depends on nothing else, so any may be asked for."""
        if number < 0:
            raise UsageError(f"batch {number}; they count from 0 on")
        turn, part = divmod(number, self.slices)
        share = self.rows // self.world
        first = turn * self.rows + self.rank * share
        rows = [self._row(place, part) for place in range(first, first + share)]
        ids, labels, resets, sources = (np.stack(parts) for parts in zip(*rows, strict=True))
        has_label = labels != IGNORED
        num_bytes = int(self.shards.id_bytes[labels[has_label]].sum(dtype=np.int64))
        return Batch(ids, labels, resets, int(has_label.sum()), num_bytes, part > 0, sources)

    def _row(self, place: int, part: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        epoch, at = divmod(place, self.plan.num_rows)
        row = int(_order(self.plan.num_rows, self.seed, epoch)[at])
        ids = np.zeros(self.length, dtype=np.int64)
        labels = np.full(self.length, IGNORED, dtype=np.int64)
        resets = np.zeros(self.length, dtype=np.bool_)
        sources = np.zeros(self.length, dtype=np.uint16)
        filled = 0
        for piece in range(self.plan.rows_R[row], self.plan.rows_R[row + 1]):
            start, size = int(self.plan.starts_P[piece]), int(self.plan.sizes_P[piece])
            tokens = self.shards.tokens[start : start + size + 1].astype(np.int64)
            here = slice(filled, filled + size)
            ids[here], labels[here] = tokens[:-1], tokens[1:]
            if self.answers_only:
                is_answer = self.shards.answers[start + 1 : start + size + 1] != 0
                labels[here] = np.where(is_answer, labels[here], IGNORED)
            resets[filled] = True
            sources[here] = self.shards.source_N[self.plan.documents_P[piece]]
            filled += size
        if filled < self.length:
            resets[filled] = True
        seen = slice(part * self.seq_len, (part + 1) * self.seq_len)
        return ids[seen], labels[seen], resets[seen], sources[seen]


def batches_of(
    shards: Shards,
    *,
    rows: int,
    seq_len: int,
    length: int | None = None,
    seed: int = 0,
    max_documents: int | None = None,
    answers_only: bool = False,
) -> Batches:
    """Pack the documents of some shards. `length` above `seq_len` carries states over several batches.

    With `answers_only`, answers alone have labels, and documents without any are left out.
    """
    length = seq_len if length is None else length
    if rows < 1 or seq_len < 1:
        raise UsageError(f"{rows} rows of {seq_len} tokens; both must be 1 or more")
    if length < 1 or length % seq_len:
        raise UsageError(f"rows of {length} tokens are no whole number of {seq_len}")
    has_answers = shards.answers_N() > 0 if answers_only else None
    if has_answers is not None and not has_answers.any():
        raise UsageError(
            "the data holds no answers to learn from",
            hint="Give chats or prompts with completions, and build the shards with a chat share above 0.",
        )
    most = max(4, length // 64) if max_documents is None else max_documents
    return Batches(
        shards=shards,
        plan=pack(shards.lengths_N, row=length, max_documents=most, seed=seed, chosen_N=has_answers),
        rows=rows,
        seq_len=seq_len,
        length=length,
        max_documents=most + 1,
        seed=seed,
        answers_only=answers_only,
    )


@lru_cache(maxsize=4)
def _order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 2, epoch)).permutation(num_rows)
