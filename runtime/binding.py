"""Turning a program to streams: whose states it moves, how many tokens of each, and how they loop.

Mostly a step is like the one before, so what is set is remembered and compared; only a change is checked and
set anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.schema.model import ModelConfig
from runtime.arena import StateLayout
from runtime.building import steps
from runtime.building.loop import Controls
from runtime.program import Program
from runtime.state import State

Integers: TypeAlias = NDArray[np.int64]
Ids: TypeAlias = Sequence[int] | Integers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """What one of several streams reads in a step."""

    state: State
    ids: Ids
    rounds: int | None = None
    exit_threshold: float = 0.0
    is_heard: bool = True
    """Whether the scores after its last token are asked for."""


_Bound: TypeAlias = tuple[tuple[int, int, str, int, int, float, bool] | None, ...]
_UNBOUND: _Bound = ()
"""What the program is turned to before it is turned to anything."""


class Binding:
    """What a program is turned to."""

    def __init__(
        self,
        program: Program,
        *,
        config: ModelConfig,
        layout: StateLayout,
        controls: Controls,
        digest: str,
        num_streams: int,
    ) -> None:
        self._program = program
        self._config = config
        self._layout = layout
        self._controls = controls
        self._digest = digest
        self._num_streams = num_streams
        self._bound = _UNBOUND
        self.num_tokens = 0
        """How many tokens the last step had."""

    def turn_to_one(self, state: State, num_tokens: int, rounds: int | None, threshold: float) -> None:
        """Turn the program to one stream and a number of tokens."""
        rounds = state.rounds if rounds is None else rounds
        wanted = ((state.address, state.rounds, state.digest, num_tokens, rounds, threshold, True),)
        if wanted != self._bound:
            self._check_part(state, rounds, threshold)
            self._turn(wanted)

    def turn_to(self, parts: Sequence[Part | None]) -> None:
        """The same for several."""
        wanted: _Bound = tuple(
            None
            if part is None
            else (
                part.state.address,
                part.state.rounds,
                part.state.digest,
                len(part.ids),
                part.state.rounds if part.rounds is None else part.rounds,
                part.exit_threshold,
                part.is_heard,
            )
            for part in parts
        )
        if wanted == self._bound:
            return
        if len(parts) > self._num_streams:
            raise UsageError(f"{len(parts)} places; this engine has {self._num_streams}, as it was opened")
        present = [part for part in parts if part is not None]
        if len({part.state.address for part in present}) < len(present):
            raise UsageError("a stream is in two places of one step; it can take one step at a time")
        for part in present:
            rounds = part.state.rounds if part.rounds is None else part.rounds
            self._check_part(part.state, rounds, part.exit_threshold)
        self._turn(wanted)

    def forget(self) -> None:
        """Check and set all anew with the next step."""
        self._bound = _UNBOUND

    def check_state(self, state: State, rounds: int) -> None:
        """Refuse a state that is not of this model, has no room for so many rounds, or was left half-way."""
        if state.is_broken_off:
            raise UsageError(
                "this state was left in the middle of a token, when an expert was wanted and did not come",
                hint="Go on from a copy or a saved state of before.",
            )
        if state.digest != self._digest:
            raise UsageError(
                f"the state is of the model {state.digest[:16]}…, this one is {self._digest[:16]}…",
                hint="A state is good for the model that made it.",
            )
        if not 1 <= rounds <= state.rounds:
            raise UsageError(
                f"{rounds} rounds, but this state takes 1 to {state.rounds}",
                hint=f"Ask new_state for more; the model takes 1 to {self._config.rounds_most}.",
            )
        if state.rounds > self._layout.rounds or state.num_bytes != self._layout.num_bytes(state.rounds):
            raise UsageError(
                f"a state of {state.rounds} rounds and {state.num_bytes} bytes is not this model's",
                hint="A state's memory is copied whole or not at all.",
            )

    def _turn(self, wanted: _Bound) -> None:
        self._bound = _UNBOUND  # an interrupt may come before all is set
        held, controls, row = list[int](), self._controls, 0
        for stream, entry in enumerate(wanted):
            if entry is not None:
                _, _, _, count, rounds, threshold, is_heard = entry
                tokens = slice(row, row + count)
                controls.rounds_T[tokens] = rounds
                controls.thresholds_T[tokens] = steps.bits_of(threshold)
                controls.owners_T[tokens] = stream
                row += count
                held += [row - 1] if is_heard else []
        self._program.set_states(*(0 if entry is None else entry[0] for entry in wanted))
        self._program.set_tokens(*(0 if entry is None else entry[3] for entry in wanted))
        self._program.set_heard(*held)
        self.num_tokens = row
        self._bound = wanted

    def _check_part(self, state: State, rounds: int, threshold: float) -> None:
        self.check_state(state, rounds)
        if not 0 <= threshold <= 1:
            raise UsageError(f"exit threshold {threshold}; allowed are 0, which is never, to 1")
