"""What a session needs of an engine: streams that read, and a head that looks at few rows where few can win.

A step ends with the full head, or with the coarse one of `runtime.screen`. From coarse scores it is proved
which rows can be among the best; their logits are computed exactly, by the kernel that has the full head's
bits. Where too many are left, the full head is run, and the next tokens are spared the attempt: for a
while that doubles each time, up to a limit. So a head that is screened badly costs little, and no choice of
this kind can change a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.activations import QuantizedActivations
from quant.embedding import RowBits
from quant.kernels.calls import selected_rows_call
from quant.packing import ROW_PAIR, num_pairs
from quant.selfcheck import chosen
from runtime.building.steps import head_product
from runtime.building.workspace import Rows
from runtime.engine import Engine
from runtime.interrupts import held_back
from runtime.program import Step
from runtime.ranking import best_places
from runtime.screen import Screen, build_screen, norm_above
from runtime.state import State
from runtime.streams.kept import Outlook, StreamState

if TYPE_CHECKING:
    from runtime.experts.foretelling import Foreteller

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

ScreenUse = Literal["auto", "on", "always", "off"]
"""Where it pays; from the first answer on; also where it spares nothing, to measure and to test; never."""

# A smaller head is multiplied in less time than it takes to look for rows to leave out, 0.25 ms at 12 MB.
# Of a wider one too little can be proved for what its copy costs, 3 s of work for each 100 MB.
LEAST_BYTES = 32 * 2**20
MOST_INPUTS = 1024
CHOICES_BEFORE = 512
"""A screen is made before an answer, once so many choices would have used it."""
PAIRS_SHARE = 8
"""A screen that leaves more than one pair of row blocks in so many costs as much as it spares."""
LONGEST_REST = 256
_DOWN = np.float32(2.0**-20)

_SELECTED: dict[RowBits, str] = {8: "int8_selected", 4: "int4_selected", 2: "int2_selected"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _HoldingStep(Step):
    """An operation that keeps alive what its addresses are of: an engine may outlive who set its head."""

    held: tuple[object, ...]


class Speaker:
    """Streams of one engine, and its head. Sessions of the same engine share one and take turns."""

    def __init__(self, engine: Engine, *, num_ids: int | None = None, screen: ScreenUse = "auto") -> None:
        self.engine = engine
        self.num_ids = min(num_ids or engine.config.vocab_size, engine.config.vocab_size)
        """Rows from here on stand for no token."""
        self.num_screened = 0
        """Choices that were made without looking at all rows."""
        self._use: ScreenUse = screen if engine.head_rows.bits == 8 else "off"
        self._screen: Screen | None = None
        self._coarse: Floats = np.empty(0, dtype=np.float32)
        self._highest: Floats = np.empty(0, dtype=np.float32)
        self._ids: Integers = np.zeros(self.num_ids, dtype=np.int64)
        self._selected = selected_rows_call(engine.head_rows, self._acts(), self._ids)
        self._select = chosen(_SELECTED[engine.head_rows.bits]).kernel
        self._num_screenable = 0
        self._is_wanted = False
        self._is_set = False
        self._is_run = False
        self._rest = self._next_rest = 0
        self._foreteller: Foreteller | None = None
        if engine.experts is not None:
            # Here and not above: who has no experts on disk starts without it.
            from runtime.experts.foretelling import foreteller_of

            self._foreteller = foreteller_of(engine)
        engine.set_head(None)

    def begun(self, rounds: int | None) -> State:
        """The state of a new stream."""
        return self.engine.new_state(rounds)

    def read(
        self,
        state: StreamState,
        ids: Sequence[int],
        *,
        exit_threshold: float,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Let a stream read ids, or some of them where it is cancelled."""
        assert isinstance(state, State), "a stream of this engine"
        self._is_run = False  # also where an interrupt or an error comes behind the reading
        if len(ids) == 1:
            self.engine.step(state, ids[0], exit_threshold=exit_threshold)
        else:
            if self._foreteller is not None:
                self._foreteller.foretell(ids)
            self.engine.prefill(
                state,
                np.asarray(ids, dtype=np.int64),
                exit_threshold=exit_threshold,
                is_cancelled=is_cancelled,
            )
            if self._foreteller is not None:
                self._foreteller.remind()
        self._is_run = len(ids) == 1 and self._is_set

    def outlook(self, state: StreamState) -> Outlook | None:
        """As `runtime.stream.Runner` says."""
        assert isinstance(state, State), "a stream of this engine"
        return self.engine.outlook(state)

    def recall(self, state: StreamState, outlook: Outlook) -> None:
        """As `runtime.stream.Runner` says."""
        assert isinstance(state, State), "a stream of this engine"
        self._is_run = False
        self.engine.recall(state, outlook)

    def expect(self, *, all_logits: bool) -> None:
        """What the next choices will ask for."""
        self._is_wanted = not all_logits and self._use != "off"
        if self._is_wanted and self._screen is None and self._is_worth_making():
            screen = build_screen(self.engine.head_rows)
            self._coarse = np.empty(num_pairs(screen.rows.num_rows) * ROW_PAIR, dtype=np.float32)
            self._highest = np.empty(self.num_ids, dtype=np.float32)
            self._screen = screen  # last: an interrupt may come in between
        self._set(self._is_wanted and self._screen is not None and not self._rest)

    def logits(self) -> Floats:
        """All logits after the last token that was read; the next call overwrites them."""
        return self.engine.logits()[: self.num_ids]

    def selected(self, ids: Integers) -> Floats:
        """The logits of some ids; the next call overwrites them."""
        self._ids[: ids.size] = ids
        self._selected.run(self._select, 0, ids.size)
        return self._selected.y[0, : ids.size]

    def candidates(self, changed: Integers, *, count: int, below_best: float) -> Integers | None:
        """As `runtime.sampler.Head` says."""
        self._num_screenable += 1
        if not self._is_set:
            self._rest = max(0, self._rest - 1)
            self._set(self._is_wanted and self._screen is not None and not self._rest)
            return None
        ids = self._near_the_best(changed, count=count, below_best=below_best)
        if ids is None:
            self._rest = self._next_rest = min(max(1, 2 * self._next_rest), LONGEST_REST)
            self._set(False)
            return None
        self._next_rest //= 2
        self.num_screened += 1
        return ids

    def _near_the_best(self, changed: Integers, *, count: int, below_best: float) -> Integers | None:
        assert self._screen is not None, "what is set has been made"
        if self.num_ids - changed.size < count:
            return None
        if not self._is_run:
            self.engine.run_head()
            self._is_run = True
        coarse, highest = self._coarse[: self.num_ids], self._highest
        highest[:] = coarse
        highest[changed] = -np.inf
        # As many unchanged rows have this logit or a better one; a little less covers the rounding here.
        lowest = self.selected(_best(highest, count)).min() - np.float32(below_best)
        lowest -= np.abs(lowest) * _DOWN
        np.multiply(self._screen.slack[: self.num_ids], norm_above(self._acts()), out=highest)
        highest += coarse
        ids: Integers = np.flatnonzero(highest >= lowest)
        if not ids.size:
            return None  # not a number anywhere: who sees all logits says so
        touched = int(np.count_nonzero(np.diff(ids // ROW_PAIR))) + 1
        spares = touched * PAIRS_SHARE * ROW_PAIR <= self.num_ids
        return ids if spares or self._use == "always" else None

    def _is_worth_making(self) -> bool:
        if self._use in ("on", "always"):
            return True
        rows = self.engine.head_rows
        is_good = rows.codes.nbytes >= LEAST_BYTES and rows.num_inputs <= MOST_INPUTS
        return is_good and self._num_screenable >= CHOICES_BEFORE

    def _set(self, is_set: bool) -> None:
        """Have steps end with the coarse head, or with the full one."""
        if is_set == self._is_set:
            return
        groups = None
        if is_set:
            assert self._screen is not None, "what is set has been made"
            y = Rows(array=self._coarse.reshape(1, -1), width=self._coarse.size)
            step = head_product(self._screen.rows, acts=self.engine.hidden, y=y, num_tokens=1)
            groups = ((_holding(step, self._screen, self._coarse),),)
        with held_back():
            self._is_set, self._is_run = is_set, False
            self.engine.set_head(groups)

    def _acts(self) -> QuantizedActivations:
        hidden = self.engine.hidden
        return QuantizedActivations(
            codes=hidden.codes, scales=hidden.scales, neg_sums=hidden.neg_sums, num_inputs=hidden.width
        )


def _holding(step: Step, *held: object) -> Step:
    return _HoldingStep(
        kernel=step.kernel,
        arguments=step.arguments,
        num_places=step.num_places,
        units=step.units,
        units_per_token=step.units_per_token,
        held=held,
    )


def _best(scores: Floats, count: int) -> Integers:
    """The best places; of one, at once."""
    return np.array([scores.argmax()]) if count == 1 else best_places(scores, count)
