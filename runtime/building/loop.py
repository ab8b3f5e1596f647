"""The steps of a loop: what enters it, the rounds, and what leaves it.

A round works on the tokens that are still in the loop, side by side, so a prompt whose tokens leave at
different rounds costs no more than they take. How many they are is known to the round before: it writes the
number where the operations of the round read it. A round that nobody takes is passed over.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.kernels.rounds import places as at
from quant.kernels.rounds.reference import decay_and_gain
from quant.native import Kernel, KernelsOf
from runtime.building import steps
from runtime.building.choosing import gather_decided
from runtime.building.plan import Plan, Stream
from runtime.building.steps import Table
from runtime.building.tensors import Floats
from runtime.building.workspace import Rows
from runtime.program import Count, Step, TargetsOf

kernels = KernelsOf("quant.kernels.rounds.kernels")
Round = Callable[[int, Count, Stream], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Controls:
    """What a call says about the loop, and what the loop tells of itself."""

    rounds_T: NDArray[np.int64]
    """The most rounds that each token may take."""
    thresholds_T: NDArray[np.int64]
    """The least change of each token for another round, a float32 by its bits; 0 for none."""
    owners_T: NDArray[np.int64]
    """The stream of each token."""
    taken_T: NDArray[np.int64]
    """The rounds that each token of the last slice took."""
    totals: NDArray[np.int64]
    """How many tokens took each round, since the model was opened."""


def controls(plan: Plan) -> Controls:
    """The controls of a model; without a loop nobody reads them."""
    workspace = plan.workspace
    return Controls(
        rounds_T=workspace.array("loop.rounds", (workspace.num_rows,), np.int64),
        thresholds_T=workspace.array("loop.thresholds", (workspace.num_rows,), np.int64),
        owners_T=workspace.array("loop.owners", (workspace.num_rows,), np.int64),
        taken_T=workspace.array("loop.taken", (workspace.num_rows,), np.int64),
        totals=workspace.array("loop.totals", (plan.config.rounds_most,), np.int64),
    )


def add_loop(plan: Plan, stream: Stream, *, tokens: Count, add_round: Round) -> None:
    """All rounds; `add_round` adds the looped layers of one."""
    loop = _Loop(plan, stream, tokens)
    loop.enter()
    for number, count in enumerate(loop.counts):
        loop.mix(number, count)
        add_round(number, count, stream)
        loop.keep(number, count)
    loop.leave()


class _Loop:
    """The loop's buffers and weights while its steps are added."""

    def __init__(self, plan: Plan, stream: Stream, tokens: Count) -> None:
        config, workspace = plan.config, plan.workspace
        self.plan, self.stream, self.tokens = plan, stream, tokens
        self.controls = controls(plan)
        self.fed = workspace.rows("loop.fed", config.hidden_size)
        self.held = workspace.rows("loop.held", config.hidden_size)
        self.decay, self.gain = plan.tensors.made("loop", self._decay_and_gain)
        cells = workspace.array("loop.counts", (config.rounds_most, plan.num_counts), np.int64)
        self.counts = [plan.count(cells_of_round) for cells_of_round in cells]
        num_rows, num_streams = workspace.num_rows, plan.num_streams
        self.table: Table = {
            at.HELD: self.held.address,
            at.HELD_STRIDE: self.held.stride,
            at.INPUT: self.fed.address,
            at.INPUT_STRIDE: self.fed.stride,
            at.WIDTH: config.hidden_size,
            at.ACTIVE: workspace.array("loop.active", (num_rows,), np.int64).ctypes.data,
            at.MIXED: stream.x.address,
            at.MIXED_STRIDE: stream.x.stride,
            at.DECAY: self.decay.ctypes.data,
            at.THRESHOLDS: self.controls.thresholds_T.ctypes.data,
            at.STAYS: workspace.array("loop.stays", (num_rows,), np.int64).ctypes.data,
            at.TAKEN: self.controls.taken_T.ctypes.data,
            at.NUM_TOKENS: tokens.address,
            at.WANTED: self.controls.rounds_T.ctypes.data,
            at.COUNTS: cells.ctypes.data,
            at.NUM_COUNTS: plan.num_counts,
            at.NUM_ROUNDS: config.rounds_most,
            at.TOTALS: self.controls.totals.ctypes.data,
            at.NUM_STREAMS: num_streams,
            at.OWNERS: self.controls.owners_T.ctypes.data,
            at.SHARES: workspace.array("loop.shares", (num_streams,), np.int64).ctypes.data,
            at.FIRST_ROWS: workspace.array("loop.first_rows", (num_streams,), np.int64).ctypes.data,
        }

    def enter(self) -> None:
        """What every round is fed, and the number of tokens of the first."""
        stream, together = self.stream, self.plan.program.together
        norm = steps.norm_both(
            stream.x,
            addend=stream.take_addend(),
            gain=self._floats("prelude_norm.weight"),
            eps=self.plan.config.rms_norm_eps,
            normed=stream.normed,
            acts=stream.acts,
        )
        together(self.tokens, norm, self._announce(kernels.begin_rounds, round_over=-1))
        matrix = self._floats("B")
        if matrix.ndim == 1:
            together(self.tokens, self._scale(stream.normed, self.fed, matrix, self.gain))
        else:
            together(self.tokens, steps.dense(stream.normed, weight=matrix, y=self.fed))
            together(self.tokens, self._scale(self.fed, self.fed, self.gain))

    def mix(self, number: int, count: Count) -> None:
        """What the round reads, in the place of the residual stream."""
        table = {**self.table, at.ROUND: number}
        kernel = steps.kernel_of("mix_rounds")
        self.plan.program.together(
            count, Step(kernel=kernel, arguments=table, num_places=at.NUM_PLACES, units_per_token=1)
        )
        gather_decided(self.plan, number=number, count=count, table=table)

    def keep(self, number: int, count: Count) -> None:
        """What the round leaves behind, and who takes the next."""
        addend = self.stream.take_addend()
        assert addend is not None, "a round ends with a feed-forward part"
        table: Table = {
            **self.table,
            at.ROUND: number,
            at.ADDEND: addend.address,
            at.ADDEND_STRIDE: addend.stride,
        }
        kernel = steps.kernel_of("keep_rounds")
        together = self.plan.program.together
        together(count, Step(kernel=kernel, arguments=table, num_places=at.NUM_PLACES, units_per_token=1))
        if number + 1 < len(self.counts):
            together(count, self._announce(kernels.next_round, round_over=number))

    def leave(self) -> None:
        """What the layers behind the loop read, for all tokens."""
        matrix = self._floats("C")
        if matrix.ndim == 1:
            step = self._scale(self.held, self.stream.x, matrix)
        else:
            step = steps.dense(self.held, weight=matrix, y=self.stream.x)
        self.plan.program.together(self.tokens, step)

    def _announce(self, kernel: Kernel, *, round_over: int) -> Step:
        """The number of tokens of the round after one, written wherever its operations read it."""
        table: Table = {
            **self.table,
            at.ROUND: max(round_over, 0),
            at.TARGETS: TargetsOf(self.counts[round_over + 1]),
        }
        return Step(kernel=kernel, arguments=table, num_places=at.NUM_PLACES, units=1)

    def _scale(self, x: Rows, y: Rows, first: Floats, second: Floats | None = None) -> Step:
        table: Table = {
            at.X: x.address,
            at.X_STRIDE: x.stride,
            at.FIRST: first.ctypes.data,
            at.SECOND: 0 if second is None else second.ctypes.data,
            at.WIDTH: x.width,
            at.Y: y.address,
            at.Y_STRIDE: y.stride,
        }
        kernel = steps.kernel_of("scale_rows")
        return Step(kernel=kernel, arguments=table, num_places=at.NUM_PLACES, units_per_token=1)

    def _decay_and_gain(self) -> tuple[Floats, Floats]:
        is_exact = self.plan.config.looping.zoh_input == "exact"
        return decay_and_gain(self._floats("A_log"), self._floats("dt_bias"), exact=is_exact)

    def _floats(self, name: str) -> Floats:
        return self.plan.tensors.floats(f"loop.{name}")
