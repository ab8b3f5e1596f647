"""A process that is interrupted again and again, and tells what came of it.

python -m tests.runtime.interrupted WAY FOLDER goes on until it was interrupted so often, and prints how often
and whether all was as in a run that nobody interrupts.
"""

import json
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from configs.text.tokenizer import open_tokenizer
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.head import Speaker
from runtime.sampling import SamplingSettings
from runtime.session import Session
from runtime.state import State
from runtime.telling import Limits

INTERRUPTS = 60
TOKENS = 80


class Interrupts:
    """Raises as Python's own handler does, but only in what is run by it, and counts."""

    def __init__(self) -> None:
        self.num_met = 0
        self._is_armed = False
        signal.signal(signal.SIGINT, self._handle)

    def survives(self, action: Callable[[], None]) -> None:
        """Run it, and perhaps not to the end."""
        try:
            self._is_armed = True
            action()
            self._is_armed = False
        except KeyboardInterrupt:
            pass

    def _handle(self, number: int, frame: object) -> None:
        if self._is_armed:
            # Here and not where it is caught: another may come in between.
            self._is_armed = False
            self.num_met += 1
            raise KeyboardInterrupt


def engine_is_as_ever(engine: Engine, interrupts: Interrupts) -> bool:
    """Steps and slices of prompts in any order: after each interrupt, what is told of the state is true."""
    draws = random.Random(4)
    ids = np.random.default_rng(1).integers(0, engine.config.vocab_size, TOKENS)
    state = engine.new_state()
    told: list[tuple[bytes, bytes, bytes | None]] = []
    for token in ids:
        engine.step(state, int(token))
        told.append((state.arena.tobytes(), engine.logits().tobytes(), engine.outlook(state)))

    def some() -> None:
        at = state.position
        if draws.random() < 0.5:
            engine.step(state, int(ids[at]))
        else:
            engine.prefill(state, ids[at : at + draws.randrange(1, 90)])

    print("ready", flush=True)
    is_as_ever = True
    while interrupts.num_met < INTERRUPTS:
        state = engine.new_state()
        while state.position < TOKENS and is_as_ever:
            interrupts.survives(some)
            if not state.position:
                continue
            arena, logits, outlook = told[state.position - 1]
            found = engine.outlook(state)
            is_as_ever = not state.is_broken_off and state.arena.tobytes() == arena
            if found is not None:
                is_as_ever = is_as_ever and found == outlook and engine.logits().tobytes() == logits
    return is_as_ever


def talk_is_as_ever(engine: Engine, interrupts: Interrupts, folder: Path) -> bool:
    """An answer that is broken off and gone on with says what it would have said."""
    tokenizer = open_tokenizer(folder)
    ends = {token: float("-inf") for token in (*tokenizer.special_ids, tokenizer.eos or 0)}
    settings = SamplingSettings(temperature=0.9, seed=5, repetition_penalty=1.1, logit_bias=ends)

    def session(num_tokens: int) -> Session:
        speaker = Speaker(engine, num_ids=tokenizer.vocab_size)
        limits = Limits(max_tokens=num_tokens)
        return Session(speaker, head=speaker, tokenizer=tokenizer, settings=settings, limits=limits)

    undisturbed = session(TOKENS)
    list(undisturbed.complete("Once upon a time " * 20))
    expected = list(undisturbed.ids)
    print("ready", flush=True)
    while interrupts.num_met < INTERRUPTS:
        talk = session(10**6)
        while talk.position < len(expected):
            text = "" if talk.position else "Once upon a time " * 20
            interrupts.survives(lambda text=text, talk=talk: _until(talk, text, len(expected)))
        if list(talk.ids)[: len(expected)] != expected:
            return False
        saved = talk.talk().snapshot
        anew = engine.new_state()
        engine.prefill(anew, list(saved.ids[: saved.state.position]))
        assert isinstance(saved.state, State)
        if saved.state.arena.tobytes() != anew.arena.tobytes():
            return False
        if sum(len(turn.reply) for turn in talk.turns) == 0:
            return False
    return True


def _until(talk: Session, text: str, position: int) -> None:
    for _ in talk.complete(text):
        if talk.position >= position:
            return


def main(way: str, folder: Path) -> None:
    asked = ExpertsAsked(memory_bytes=4 * 8192) if way == "experts" else None
    interrupts = Interrupts()
    with Engine.open(folder, num_threads=2, experts=asked) as engine:
        if way == "talk":
            is_as_ever = talk_is_as_ever(engine, interrupts, folder)
        else:
            is_as_ever = engine_is_as_ever(engine, interrupts)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps({"met": interrupts.num_met, "as ever": is_as_ever}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
