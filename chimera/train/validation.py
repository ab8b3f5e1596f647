"""A look at text that is never learnt from: bits per byte, with the rounds that the model will run with."""

import dataclasses
import math
from typing import Any, NamedTuple

import torch

from chimera.data.batches import batches_of
from chimera.data.shards import Shards
from chimera.mixers.packing import Packing
from chimera.model import ChimeraForCausalLM

MOST_ROWS = 32
"""Of a batch."""
MOST_BATCHES = 16
"""Enough for two digits; a whole text is for `chimera perplexity`."""


class Score(NamedTuple):
    """How well a text is foreseen."""

    loss: float
    bits_per_byte: float
    num_tokens: int

    def as_json(self) -> dict[str, Any]:
        """For the log."""
        return {"loss": self.loss, "bits_per_byte": self.bits_per_byte, "num_tokens": self.num_tokens}


@torch.no_grad()
def validate(model: ChimeraForCausalLM, shards: Shards, *, seq_len: int, rows: int, bf16: bool) -> Score:
    """The score of the first rows of some shards, always the same ones. Every worker does all of it."""
    device = model.final_norm.weight.device
    batches = batches_of(shards, rows=1, seq_len=seq_len)
    rows = min(rows, MOST_ROWS, batches.plan.num_rows)
    batches = dataclasses.replace(batches, rows=rows)
    nats, tokens, num_bytes = 0.0, 0, 0
    model.eval()
    # Compiled for another purpose: a few batches do not repay another compilation.
    with torch.compiler.set_stance("force_eager"):
        # Full batches alone: rows of a second pass over the text would count twice.
        for number in range(min(MOST_BATCHES, batches.plan.num_rows // rows)):
            batch = batches.batch(number)
            ids, labels, resets = (torch.from_numpy(array).to(device) for array in batch[:3])
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                output = model(ids, packing=Packing(resets, batches.max_documents), keep_state=False)
                loss = model.loss(output.hidden_BTD, labels)
            nats += loss.item() * batch.num_labels
            tokens += batch.num_labels
            num_bytes += batch.num_bytes
    model.train()
    loss = nats / max(tokens, 1)
    return Score(loss, nats / math.log(2) / max(num_bytes, 1), tokens)
