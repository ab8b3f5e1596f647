"""How fast a model will be here: the engine answers with it, on weights that stand in for the real.

What is timed is the model's own program, operation by operation, with as many bytes fetched for a token, and
the choice of a word behind it. So nothing has to be said of how long an operation takes, how threads share
it, or what the caches keep.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from configs import accounting
from runtime.engine import Engine
from runtime.measuring.answering import Answering
from runtime.measuring.pages import as_bytes, populate, reserve
from runtime.measuring.timing import Times
from runtime.state import State

FAR = 2**20
"""A position at which every window of fixed size is full."""
_PROMPT_AT = 256
"""Where prompts are read: the middle of one of 512 tokens, as windows fill up on the way."""
_SECONDS = 1.4
"""How long all is timed. A pass over all depths that would not fit in what is left is not begun."""
_TURN_SECONDS = 0.04
_FEWEST_STEPS = 2
_WARM_SECONDS = 0.03
_SLOW_STEP_SECONDS = 0.02
"""With slower steps, depths between the extremes are not timed, and of prompts short slices are read once."""
_LARGE_TOKEN_BYTES = 64 * 2**20
"""A token that reads less is slow for a moment alone, when others have the cores."""
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
    """Times at one number of rounds; a list that stays empty is told by those of other depths."""

    rounds: int
    begin: Times = field(default_factory=Times)
    far: Times = field(default_factory=Times)
    prompt: Times = field(default_factory=Times)


def rehearse(
    engine: Engine,
    rounds: Sequence[int],
    *,
    exit_threshold: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Rehearsal:
    """Medians for each number of rounds; `progress` is given milliseconds of all that it takes.

    A pass goes over all depths, so that whatever happens to the machine hurts all alike.
    """
    wanted = sorted(set(rounds))
    stage = _Stage(Answering(engine, exit_threshold=exit_threshold), rounds=wanted[-1])
    stage.step(wanted[-1], Times(), seconds=_WARM_SECONDS, fewest=1)
    first = Times()
    stage.step(wanted[0], first, seconds=0.0)
    is_large = accounting.bytes_per_token(engine.config, rounds=wanted[0]) > _LARGE_TOKEN_BYTES
    is_slow = is_large and first.least_s > _SLOW_STEP_SECONDS
    stepped = {wanted[0], wanted[-1]} if is_slow else {*wanted}
    read = {*wanted[:2]} if is_slow else {*wanted}
    depths = [_Depth(rounds=number) for number in wanted]
    begin = last = time.perf_counter()
    while True:
        for depth in depths:
            if depth.rounds in stepped:
                stage.step(depth.rounds, depth.begin, position=0)
                stage.step(depth.rounds, depth.far, position=FAR)
            if depth.rounds in read and not (is_slow and depth.prompt):
                stage.read(depth.rounds, depth.prompt, num_tokens=_SHORT_SLICE if is_slow else None)
            if progress is not None:
                done = min(time.perf_counter() - begin, _SECONDS)
                progress(round(done * 1e3), round(_SECONDS * 1e3))
        now = time.perf_counter()
        if (now - begin) + (now - last) > _SECONDS:
            break
        last = now
    if progress is not None:
        progress(round(_SECONDS * 1e3), round(_SECONDS * 1e3))
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
    """An engine and a stream of each depth, in the same memory: a state of few rounds begins one of many."""

    def __init__(self, answering: Answering, *, rounds: int) -> None:
        self._answering, self._engine = answering, answering.engine
        num_bytes = self._engine.state_bytes(rounds)
        memory = reserve(num_bytes)
        populate(memory)  # what nobody has written is no memory yet, and reading it is free
        self._arena = as_bytes(memory)[:num_bytes]
        self._engine.layout.set_initial(self._arena, rounds)
        self._ids = answering.drawn(_SEED, _IDS)

    def step(
        self,
        rounds: int,
        times: Times,
        *,
        seconds: float = _TURN_SECONDS,
        fewest: int = _FEWEST_STEPS,
        position: int = 0,
    ) -> None:
        """Token by token from a position on."""
        state = self._state_at(rounds, position)
        end = time.perf_counter() + seconds
        for number in range(_IDS):
            if number >= fewest and time.perf_counter() > end:
                return
            word = self._ids[number : number + 1]
            times.take(
                lambda word=word: self._answering.step(state, word), has_all_threads=self._has_all_threads
            )

    def read(self, rounds: int, times: Times, *, num_tokens: int | None) -> None:
        """Slices of a prompt, one at least."""
        ids = self._ids[: num_tokens or self._engine.slice_tokens]
        end = time.perf_counter() + _TURN_SECONDS
        while True:
            state = self._state_at(rounds, _PROMPT_AT)
            times.take(
                lambda state=state: self._answering.read(state, ids),
                has_all_threads=self._has_all_threads,
                parts=len(ids),
            )
            if time.perf_counter() > end:
                return

    def _state_at(self, rounds: int, position: int) -> State:
        arena = self._arena[: self._engine.state_bytes(rounds)]
        state = State(arena, rounds=rounds, digest=self._engine.digest)
        move(self._engine, state, position)
        return state

    def _has_all_threads(self) -> bool:
        return self._engine.usable_threads == self._engine.num_threads


def _pace(depths: Sequence[_Depth], rounds: int) -> Pace:
    """What was measured at a depth, or what the line through two others says."""
    here = next(depth for depth in depths if depth.rounds == rounds)
    return Pace(
        rounds=rounds,
        begin_s=_on_line([(depth.rounds, depth.begin) for depth in depths], rounds),
        far_s=_on_line([(depth.rounds, depth.far) for depth in depths], rounds),
        prompt_s=_on_line([(depth.rounds, depth.prompt) for depth in depths], rounds),
        is_measured=len(here.begin) > 0,
    )


def _on_line(found: Sequence[tuple[int, Times]], rounds: int) -> float:
    """The median at a depth, or on the line through the first depth and the last that were timed."""
    medians = {depth: times.median_s for depth, times in found if times}
    if rounds in medians:
        return medians[rounds]
    low, high = min(medians), max(medians)
    return medians[low] + (rounds - low) / (high - low) * (medians[high] - medians[low])
