"""What a token costs far into a text: milliseconds and memory at positions up to millions of tokens.

One stream reads words, and is copied where a position is reached. Then the copies take turns, one token each,
so that whatever happens to the machine happens to all of them. A stream that is too slow to read so far can
be moved instead: its windows are filled and told that they are at the position. That is the same work for a
token, operation by operation, but not the state that reading would have left, and the report says which.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from configs.errors import UsageError
from runtime import system
from runtime.engine import Engine
from runtime.measuring.answering import Answering
from runtime.measuring.exit import exit_threshold_of
from runtime.measuring.rehearsal import move
from runtime.state import State

Report: TypeAlias = dict[str, Any]
Progress: TypeAlias = Callable[[int, int], None]
Way = Literal["reading", "moving"]

POSITIONS = (1_000, 10_000, 100_000, 1_000_000)
_SEED = 13
_PART_TOKENS = 1024
_WARM_TURNS = 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Place:
    """A stream that waits at its position."""

    position: int
    state: State
    process_bytes: int
    """Memory of the process when it got there, without the copies that are kept."""
    seconds: list[float] = field(default_factory=list[float])


def far_report(
    engine: Engine,
    *,
    positions: Sequence[int] = POSITIONS,
    turns: int = 300,
    way: Way = "reading",
    rounds: int | None = None,
    exit_threshold: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Times and memory at each position, in rising order; `progress` is given tokens read, and all."""
    wanted = sorted(set(positions))
    if not wanted or wanted[0] < 0 or turns < 1:
        raise UsageError(
            f"positions {', '.join(map(str, positions)) or '(none)'} in {turns} turns; positions are 0 or "
            "more, and turns 1 or more"
        )
    answering = Answering(engine, exit_threshold=exit_threshold_of(engine.config, exit_threshold))
    places = _reached(answering, wanted, way=way, rounds=rounds, progress=progress)
    ids = np.random.default_rng(_SEED).integers(0, engine.config.vocab_size, _WARM_TURNS + turns).tolist()
    fewest = engine.num_threads
    for number, token in enumerate(ids):
        for place in places:
            begin = time.perf_counter()
            engine.step(place.state, token, exit_threshold=answering.exit_threshold)
            if number >= _WARM_TURNS:
                place.seconds.append(time.perf_counter() - begin)
        fewest = min(fewest, engine.usable_threads)
    medians = [statistics.median(place.seconds) for place in places]
    return {
        "reached_by": way,
        "turns": turns,
        "threads": engine.num_threads,
        "fewest_threads": fewest,
        "rounds": places[0].state.rounds,
        "exit_threshold": answering.exit_threshold,
        "places": [_figures(place) for place in places],
        "slowest_over_fastest": max(medians) / min(medians),
    }


def _reached(
    answering: Answering, positions: Sequence[int], *, way: Way, rounds: int | None, progress: Progress | None
) -> list[_Place]:
    engine = answering.engine
    draws, state, kept = np.random.default_rng(_SEED), engine.new_state(rounds), 0
    places: list[_Place] = []
    for position in positions:
        if way == "moving":
            move(engine, state, position)
        while way == "reading" and state.position < position:
            count = min(_PART_TOKENS, position - state.position)
            answering.read(state, draws.integers(0, engine.config.vocab_size, count))
            if progress is not None:
                progress(state.position, positions[-1])
        place = _Place(position=position, state=state.copy(), process_bytes=system.own_bytes() - kept)
        kept += place.state.num_bytes
        places.append(place)
    return places


def _figures(place: _Place) -> Report:
    quarters = statistics.quantiles(place.seconds, n=4) if len(place.seconds) > 1 else place.seconds * 3
    return {
        "position": place.position,
        "median_ms": statistics.median(place.seconds) * 1e3,
        "quarter_ms": quarters[0] * 1e3,
        "three_quarters_ms": quarters[2] * 1e3,
        "state_bytes": place.state.num_bytes,
        "process_bytes": place.process_bytes,
    }
