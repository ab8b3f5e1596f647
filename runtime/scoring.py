"""How likely a text was to a model: the head for every token of a slice, and the logarithm of one share."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import ModelError
from quant.kernels.elementary.reference import log
from quant.kernels.vocabulary.places import WEIGHT_BITS
from quant.pool import Pool
from runtime.building import steps
from runtime.building.model import Outline, final_norm
from runtime.building.plan import Plan, Stream
from runtime.building.workspace import Rows, Workspace
from runtime.program import TOKENS, Count, Program, ProgramBuilder
from runtime.weigher import Weigher

Floats: TypeAlias = NDArray[np.float32]

LARGEST_LOGITS_BYTES = 64 * 2**20
"""Slices are shorter where the logits of their tokens would take more."""


class Scoring:
    """The part of an engine that foresees every token of a text. Its buffers are made at its first use."""

    def __init__(self, plan: Plan, outline: Outline) -> None:
        self._plan, self._outline = plan, outline
        row_bytes = -(-plan.config.vocab_size // 64) * 256
        self.slice_tokens = max(1, min(plan.workspace.num_rows, LARGEST_LOGITS_BYTES // row_bytes))
        """Tokens of a slice whose logits are wanted."""
        self._made: _Made | None = None

    def log_probs(
        self, pool: Pool, next_T: NDArray[np.int64], *, rows_T: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Of the ids that follow the tokens of the slice that was just run, or some of them by their rows."""
        made = self._made = self._made or self._make()
        stream = self._outline.stream
        chosen = slice(len(next_T)) if rows_T is None else rows_T
        made.stream.x.array[: len(next_T)] = stream.x.array[chosen]
        if made.stream.addend is not None and stream.addend is not None:
            made.stream.addend.array[: len(next_T)] = stream.addend.array[chosen]
        made.program.set_tokens(len(next_T))
        pool.run(made.program.job)
        rows = made.logits.array[: len(next_T), : self._plan.config.vocab_size]
        pairs = zip(rows, next_T, strict=True)
        return np.array([_log_prob(row, int(token), made.weigher) for row, token in pairs])

    def log_probs_of_rows(
        self, pool: Pool, next_T: NDArray[np.int64], *, rows_T: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The same for any number of them."""
        most = self.slice_tokens
        parts = [slice(first, first + most) for first in range(0, len(next_T), most)]
        return np.concatenate([self.log_probs(pool, next_T[part], rows_T=rows_T[part]) for part in parts])

    def _make(self) -> "_Made":
        plan, workspace = self._plan, Workspace(num_rows=self.slice_tokens)
        # Of its own: who is turned to streams remembers how many tokens they had.
        tokens = Count(cell=workspace.array("tokens", (1,), np.int64))
        acts = workspace.int8("head", plan.config.hidden_size)
        logits = workspace.rows("logits", plan.config.vocab_size)
        width, whole = plan.config.hidden_size, self._outline.stream
        stream = replace(
            whole,
            x=workspace.rows("chosen", width),
            addend=None if whole.addend is None else workspace.rows("chosen.addend", width),
        )
        norm = final_norm(plan, stream, acts=acts)
        head = steps.head_product(self._outline.embedding, acts=acts, y=logits, num_tokens=TOKENS)
        builder = ProgramBuilder()
        builder.together(tokens, norm)
        builder.together(tokens, head)
        return _Made(
            program=builder.build(tokens=tokens),
            workspace=workspace,
            stream=stream,
            logits=logits,
            weigher=Weigher(plan.config.vocab_size),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Made:
    program: Program
    workspace: Workspace
    """Held, since the program knows its addresses alone."""
    stream: Stream
    """The tokens that are foreseen from, side by side."""
    logits: Rows
    weigher: Weigher


def _log_prob(logits: Floats, token: int, weigher: Weigher) -> float:
    """log softmax of one id: its distance from the best, and the logarithm of all weights."""
    best = np.where(logits == logits, logits, np.float32(-np.inf)).max()
    if not np.isfinite(best):
        raise ModelError("the model gave no finite score", hint="Check the file with verify=True.")
    weigher.scores[...] = logits
    _, sums = weigher.weigh(logits.size, best=best, temperature=np.float32(1))
    total = np.array([int(sums.sum()) / (1 << WEIGHT_BITS)], dtype=np.float32)
    return float(logits[token] - best) - float(log(total)[0])
