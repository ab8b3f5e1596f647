"""What a step ends with: the full head, or what was set in its place, and the scores of every word."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.packing import PackedRows
from quant.pool import Pool
from runtime.building import steps
from runtime.building.workspace import Int8Rows, Workspace
from runtime.interrupts import held_back
from runtime.program import TOKENS, Count, Program, ProgramBuilder, Step

Floats: TypeAlias = NDArray[np.float32]


class Heads:
    """The full head for one token and for several, and whether its scores are those of the last token."""

    def __init__(self, workspace: Workspace, *, rows: PackedRows, hidden: Int8Rows, vocab_size: int) -> None:
        """`hidden` is what the head reads, a row for each token that may be heard at once."""
        num_streams = hidden.codes.shape[0]
        self._vocab_size = vocab_size
        self._scores = workspace.rows("head.logits", vocab_size, num_rows=num_streams)
        self._one = Count(cell=np.ones(1, dtype=np.int64))
        self._full = steps.head_product(rows, acts=hidden.row(0), y=self._scores, num_tokens=1)
        self._of_one = Program([(self._one, (self._full,))], tokens=self._one)
        several = Count(cell=workspace.array("heads", (1,), np.int64))
        builder = ProgramBuilder()
        builder.together(several, steps.head_product(rows, acts=hidden, y=self._scores, num_tokens=TOKENS))
        self._of_several = builder.build(tokens=several)
        self.is_set = False
        """Whether steps end with something else than the full head."""
        self.are_due = True
        """Whether the scores have to be computed before anybody looks at them."""

    def end(self, program: Program, groups: Sequence[Sequence[Step]] | None) -> None:
        """Have a program's tail be groups of operations, or the full head."""
        chosen = ((self._full,),) if groups is None else tuple(tuple(group) for group in groups)
        with held_back():
            self.are_due, self.is_set = True, groups is not None
            program.set_tail([(self._one, group) for group in chosen if group])

    def has_ended(self) -> None:
        """The tail was run for the last token."""
        self.are_due = self.is_set

    def scores(self, pool: Pool) -> Floats:
        """Scores of every word after the last token [vocabulary]; the next call overwrites them."""
        if self.are_due:
            pool.run(self._of_one.job)
            self.are_due = False
        return self._scores.array[0, : self._vocab_size]

    def scores_of_all(self, pool: Pool, num_heard: int) -> Floats:
        """The same after the last token of each stream that is heard [heard, vocabulary]."""
        if num_heard:
            self._of_several.set_tokens(num_heard)
            pool.run(self._of_several.job)
            self.are_due = False
        return self._scores.array[:num_heard, : self._vocab_size]
