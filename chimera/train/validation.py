"""A look at text that is never labelled from: bits per byte, with the rounds that the model will run with."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from chimera.data.batches import IGNORED, batches_of
from chimera.data.shards import Shards
from chimera.mixers.packing import Packing
from chimera.model import ChimeraForCausalLM

MOST_ROWS = 512
"""Enough for two digits; a whole text is for `chimera perplexity`."""


class Score(NamedTuple):
    """How well a text is foreseen."""

    loss: float
    bits_per_byte: float
    num_tokens: int
    by_source: Mapping[str, float]
    """Bits per byte of each source."""

    def as_json(self) -> dict[str, Any]:
        """For the log."""
        return {**self._asdict(), "by_source": dict(self.by_source)}


class _Sums:
    """Nats, tokens and bytes of each source."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        num_sources = len(shards.sources)
        self._nats, self._tokens = np.zeros(num_sources), np.zeros(num_sources, dtype=np.int64)
        self._bytes = np.zeros(num_sources, dtype=np.int64)

    def add(self, source: int, nats: float, labels_T: NDArray[np.int64]) -> None:
        """Take in some words of a source."""
        self._nats[source] += nats
        self._tokens[source] += len(labels_T)
        self._bytes[source] += self._shards.id_bytes[labels_T].sum(dtype=np.int64)

    def score(self) -> Score:
        """What was taken in."""
        tokens = int(self._tokens.sum())
        bits = self._nats / math.log(2)
        return Score(
            loss=float(self._nats.sum()) / max(tokens, 1),
            bits_per_byte=float(bits.sum()) / max(int(self._bytes.sum()), 1),
            num_tokens=tokens,
            by_source={
                self._shards.sources[source]: float(bits[source] / self._bytes[source])
                for source in np.flatnonzero(self._bytes)
            },
        )


@torch.no_grad()
def validate(
    model: ChimeraForCausalLM, shards: Shards, *, seq_len: int, rows: int, num_rows: int, bf16: bool
) -> Score:
    """The score of the first `num_rows` rows of some shards, always the same ones, `rows` at a time.

    Every worker does all of it.
    """
    device = model.final_norm.weight.device
    batches = batches_of(shards, rows=1, seq_len=seq_len)
    # Each row once: a batch that goes beyond the last row would begin a second pass over the text.
    num_rows = min(num_rows, batches.plan.num_rows)
    batches = dataclasses.replace(batches, rows=min(rows, num_rows))
    sums = _Sums(shards)
    model.eval()
    # Compiled for another purpose: a few batches do not repay another compilation.
    with torch.compiler.set_stance("force_eager"):
        for first in range(0, num_rows, batches.rows):
            batch = batches.batch(first // batches.rows)
            own = slice(0, num_rows - first)
            ids, labels, resets = (torch.from_numpy(array[own]).to(device) for array in batch[:3])
            sources_BT = np.where(batch.labels_BT[own] == IGNORED, -1, batch.sources_BT[own].astype(np.int64))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                output = model(ids, packing=Packing(resets, batches.max_documents), keep_state=False)
                for source in np.unique(sources_BT[sources_BT >= 0]):
                    here_BT = torch.from_numpy(sources_BT == source).to(device)
                    labels_T = labels[here_BT]
                    loss = model.loss(output.hidden_BTD[here_BT][None], labels_T[None])
                    sums.add(int(source), loss.item() * len(labels_T), labels_T.cpu().numpy())
    model.train()
    return sums.score()
