"""How fast a model will be here: the engine reads words with it, on weights that stand in for the real.

What is timed is the model's own program, operation by operation, with as many bytes fetched for a token. So
nothing has to be said of how long an operation takes, how threads share it, or what the caches keep.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.engine import Engine
from runtime.state import State

FAR = 2**20
"""A position at which every window of fixed size is full."""
_PASSES = 2
_STEP_SECONDS = 0.08
"""How long a pass steps at one number of rounds, at one place in a text."""
_FEWEST_STEPS, _MOST_STEPS = 3, 100
_WARM_STEPS = 2
_LONGEST_SLICE_SECONDS = 0.4
"""A slice of a prompt that would take longer is told from shorter ones."""
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
    prompt_is_measured: bool
    """Otherwise it lies on the line through the two shallowest depths: each round adds the same."""


@dataclass(kw_only=True, slots=True)
class _Times:
    begin: list[float] = field(default_factory=list[float])
    far: list[float] = field(default_factory=list[float])
    prompt: list[float] = field(default_factory=list[float])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What was measured."""

    paces: tuple[Pace, ...]
    was_shared: bool
    """Another process took a core meanwhile, and the engine did with fewer threads."""


def rehearse(
    engine: Engine, rounds: Sequence[int], *, progress: Callable[[int, int], None] | None = None
) -> Rehearsal:
    """Medians for each number of rounds. A pass goes over all of them, so a disturbance hurts all alike."""
    depths = sorted(set(rounds))
    found = {depth: _Times() for depth in depths}
    fewest, done = engine.num_threads, 0
    for number in range(_PASSES):
        for depth in depths:
            state = engine.new_state(depth)
            times = found[depth]
            if not number:
                _steps(engine, state, most=_WARM_STEPS)  # the first pass touches what has no memory yet
            times.begin += _steps(engine, state)
            if move(engine, state, FAR):
                times.far += _steps(engine, state)
            told = _told(found, depths, depth)
            if told is None or told * engine.slice_tokens < _LONGEST_SLICE_SECONDS:
                times.prompt += _slices(engine, state)
            fewest, done = min(fewest, engine.usable_threads), done + 1
            if progress is not None:
                progress(done, _PASSES * len(depths))
    paces = tuple(_pace(found, depths, depth) for depth in depths)
    return Rehearsal(paces=paces, was_shared=fewest < engine.num_threads)


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


def _steps(
    engine: Engine, state: State, *, fewest: int = _FEWEST_STEPS, most: int = _MOST_STEPS
) -> list[float]:
    """Seconds of each step."""
    found: list[float] = []
    ids = np.random.default_rng(_SEED).integers(0, engine.config.vocab_size, most)
    end = time.perf_counter() + _STEP_SECONDS
    for token in ids:
        begin = time.perf_counter()
        engine.step(state, int(token))
        found.append(time.perf_counter() - begin)
        if len(found) >= fewest and time.perf_counter() > end:
            break
    return found


def _slices(engine: Engine, state: State) -> list[float]:
    """Seconds of a token, in whole slices."""
    found: list[float] = []
    end = time.perf_counter() + _STEP_SECONDS
    draws = np.random.default_rng(_SEED)
    while not found or time.perf_counter() < end:
        ids = draws.integers(0, engine.config.vocab_size, engine.slice_tokens)
        begin = time.perf_counter()
        engine.prefill(state, ids)
        found.append((time.perf_counter() - begin) / engine.slice_tokens)
    return found


def _told(found: dict[int, _Times], depths: Sequence[int], depth: int) -> float | None:
    """Seconds of a prompt's token, by the line through the two shallowest depths, if this is neither."""
    if depth in depths[:2]:
        return None
    (low, low_s), (high, high_s) = (
        (shallow, statistics.median(found[shallow].prompt)) for shallow in depths[:2]
    )
    return low_s + (high_s - low_s) * (depth - low) / (high - low)


def _pace(found: dict[int, _Times], depths: Sequence[int], depth: int) -> Pace:
    times = found[depth]
    begin_s = statistics.median(times.begin)
    told = _told(found, depths, depth)
    is_measured = bool(times.prompt)
    assert is_measured or told is not None, "the two shallowest are measured"
    return Pace(
        rounds=depth,
        begin_s=begin_s,
        far_s=statistics.median(times.far) if times.far else begin_s,
        prompt_s=statistics.median(times.prompt) if is_measured else float(told or 0),
        prompt_is_measured=is_measured,
    )
