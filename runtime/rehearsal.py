"""How fast a model will be here: the engine reads words with it, on weights that stand in for the real.

What is timed is the model's own program, operation by operation, with as many bytes fetched for a token. So
nothing has to be said of how long an operation takes, how threads share it, or what the caches keep.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.engine import Engine
from runtime.state import State
from runtime.timing import Times

FAR = 2**20
"""A position at which every window of fixed size is full."""
_PROMPT_AT = 256
"""Where prompts are read: the middle of one of 512 tokens, as windows fill up on the way."""
_SECONDS = 1.4
"""How long all is timed; what takes longer is timed once."""
_TURN_SECONDS = 0.04
_FEWEST_STEPS = 2
_WARM_SECONDS = 0.03
_SLOW_STEP_SECONDS = 0.02
"""With slower steps, a short slice of a prompt is read, and depths between the extremes are not timed."""
_SHORT_SLICE = 16
_IDS = 4096
_SEED = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds of one token, in so many rounds of the loop."""

    rounds: int
    begin_s: float
    """At the beginning of a text."""
    far_s: float
    """Where every window is full; it stays so to any length."""
    prompt_s: float
    """Of a token of a prompt, of which a slice is read at once."""
    is_measured: bool
    """Otherwise it lies on the line from fewer rounds to more: each round adds the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What was measured."""

    paces: tuple[Pace, ...]
    was_shared: bool
    """Other processes took cores, and figures are of fewer threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Depth:
    """Times at one number of rounds."""

    rounds: int
    begin: Times = field(default_factory=Times)
    far: Times = field(default_factory=Times)
    prompt: Times = field(default_factory=Times)


def rehearse(
    engine: Engine, rounds: Sequence[int], *, progress: Callable[[int, int], None] | None = None
) -> Rehearsal:
    """Medians for each number of rounds; `progress` is given milliseconds of all that it takes.

    A pass goes over all depths, so that whatever happens to the machine hurts all alike.
    """
    wanted = sorted(set(rounds))
    stage = _Stage(engine, rounds=wanted[-1])
    stage.step(wanted[-1], Times(), seconds=_WARM_SECONDS)
    is_slow = stage.step_seconds(wanted[0]) > _SLOW_STEP_SECONDS
    depths = [_Depth(rounds=number) for number in (sorted({wanted[0], wanted[-1]}) if is_slow else wanted)]
    begin, took = time.perf_counter(), 0.0
    while took < _SECONDS:
        for depth in depths:
            stage.step(depth.rounds, depth.begin, position=0)
            stage.step(depth.rounds, depth.far, position=FAR)
            if not (is_slow and depth.prompt):
                stage.read(depth.rounds, depth.prompt, num_tokens=_SHORT_SLICE if is_slow else None)
            took = time.perf_counter() - begin
            if progress is not None:
                progress(round(min(took, _SECONDS) * 1e3), round(_SECONDS * 1e3))
    return Rehearsal(
        paces=tuple(_pace(depths, number) for number in wanted),
        was_shared=any(
            times.were_shared for depth in depths for times in (depth.begin, depth.far, depth.prompt)
        ),
    )


def move(engine: Engine, state: State, position: int) -> bool:
    """Have a stream's windows take it to be at a position; False where no part of the model asks for it."""
    places = [
        placed
        for (_, number, name), placed in engine.layout.places.items()
        if name == "position" and number < state.rounds
    ]
    for placed in places:
        placed.view(state.arena)[...] = position
    return bool(places)


class _Stage:
    """An engine and a stream with room for all rounds, of which a token takes fewer."""

    def __init__(self, engine: Engine, *, rounds: int) -> None:
        self._engine = engine
        # A copy is written from end to end; what nobody has written is no memory yet, so reading it is free.
        self._state = engine.new_state(rounds).copy()
        ids = np.random.default_rng(_SEED).integers(0, engine.config.vocab_size, _IDS)
        self._ids: list[int] = ids.tolist()

    def step_seconds(self, rounds: int) -> float:
        """The time of one step."""
        times = Times()
        self._time_step(rounds, 0, times)
        return times.median_s

    def step(self, rounds: int, times: Times, *, seconds: float = _TURN_SECONDS, position: int = 0) -> None:
        """Token by token from a position on."""
        move(self._engine, self._state, position)
        end = time.perf_counter() + seconds
        for number in range(_IDS):
            if number >= _FEWEST_STEPS and time.perf_counter() > end:
                return
            self._time_step(rounds, self._ids[number], times)

    def read(self, rounds: int, times: Times, *, num_tokens: int | None) -> None:
        """Slices of a prompt, one at least."""
        ids = self._ids[: num_tokens or self._engine.slice_tokens]
        end = time.perf_counter() + _TURN_SECONDS
        while True:
            move(self._engine, self._state, _PROMPT_AT)
            times.take(
                lambda: self._engine.prefill(self._state, ids, rounds=rounds),
                has_all_threads=self._has_all_threads,
                parts=len(ids),
            )
            if time.perf_counter() > end:
                return

    def _time_step(self, rounds: int, token: int, times: Times) -> None:
        times.take(
            lambda: self._engine.step(self._state, token, rounds=rounds),
            has_all_threads=self._has_all_threads,
        )

    def _has_all_threads(self) -> bool:
        return self._engine.usable_threads == self._engine.num_threads


def _pace(depths: Sequence[_Depth], rounds: int) -> Pace:
    """What was measured at a depth, or what the line from the least to the most says."""
    low, high = depths[0], depths[-1]
    exact = next((depth for depth in depths if depth.rounds == rounds), None)
    share = 0.0 if exact or high is low else (rounds - low.rounds) / (high.rounds - low.rounds)
    first, last = (exact, exact) if exact else (low, high)

    def told(below: Times, above: Times) -> float:
        return below.median_s + share * (above.median_s - below.median_s)

    return Pace(
        rounds=rounds,
        begin_s=told(first.begin, last.begin),
        far_s=told(first.far, last.far),
        prompt_s=told(first.prompt, last.prompt),
        is_measured=exact is not None,
    )
