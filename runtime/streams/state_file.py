"""`.state` files: a talk as it is, to be gone on with in another process or on another machine, bit for bit.

    about     what it belongs to, how it draws, what was said: a page of JSON (`about.py`)
    ids       uint32, all tokens of the stream
    state     the state's memory, as `runtime.arena` lays it out
    outlook   what the head was about to be given, so that the next token needs no reading; may be empty

Who reads one trusts nothing: sections have checksums (`sections.py`), and what passes those must still be of
this model, tokenizer and template, of the right size, and hold no number that reading a text cannot leave.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from configs.errors import ChimeraError, StateError
from configs.version import VERSION
from runtime.arena import aligned_zeros
from runtime.engine import Engine
from runtime.session import Talk
from runtime.state import State
from runtime.stream import Snapshot
from runtime.streams.about import (
    About,
    Identity,
    SavedSampling,
    saved_turns,
    told_turns,
    understood,
    written,
)
from runtime.streams.sections import read_sections, write_sections

SUFFIX = ".state"
SECTIONS = ("about", "ids", "state", "outlook")
ID_BYTES = 4
DIGEST_SHOWN = 12
_KINDS = (("model", "model"), ("tokenizer", "tokenizer"), ("template", "chat template"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SavedState:
    """A file that is whole. Its arrays are views of the map."""

    path: Path
    about: About
    ids: Sequence[int]
    state: memoryview
    outlook: bytes

    @property
    def num_bytes(self) -> int:
        """The size of the file, but for its table."""
        return len(self.state) + ID_BYTES * len(self.ids) + len(self.outlook)


def save_talk(path: Path, talk: Talk, *, identity: Identity) -> None:
    """Write a talk. The file is whole or the old one, whenever this process ends."""
    state = talk.snapshot.state
    assert isinstance(state, State), "a stream of an engine"
    if state.is_broken_off:
        raise StateError(
            f"{path} is not written: the state was left in the middle of a token",
            hint="Go on with the talk first: what was broken off is then read again.",
        )
    ids = array("I", talk.snapshot.ids)
    about = About(
        identity=identity,
        rounds=state.rounds,
        exit_threshold=talk.exit_threshold,
        position=len(ids),
        num_read=state.position,
        sampling=SavedSampling.of(talk.settings),
        system=talk.system,
        is_stale=talk.is_stale,
        turns=saved_turns(talk.turns),
        version=VERSION,
    )
    sections = (written(about), ids.tobytes(), state.arena.data, talk.snapshot.outlook or b"")
    write_sections(path, dict(zip(SECTIONS, sections, strict=True)))


def open_state(path: Path) -> SavedState:
    """A file that somebody saved. It is whole then; whose it is, `restored_talk` finds out."""
    sections = read_sections(path)
    if tuple(sections) != SECTIONS:
        raise StateError(
            f"{path} holds {', '.join(sections)}; expected {', '.join(SECTIONS)}",
            hint="It was written by another program.",
        )
    about = understood(bytes(sections["about"]), source=str(path))
    if len(sections["ids"]) != ID_BYTES * about.position:
        raise StateError(
            f"{path} says {about.position} tokens and holds {len(sections['ids'])} bytes of them"
        )
    ids = array("I", bytes(sections["ids"]))
    return SavedState(
        path=path, about=about, ids=ids, state=sections["state"], outlook=bytes(sections["outlook"])
    )


def restored_talk(saved: SavedState, engine: Engine, *, identity: Identity) -> Talk:
    """The talk, if it is of this engine's model and has the words and the memory that such a talk has."""
    check_belongs(saved, identity)
    about = saved.about
    if max(saved.ids, default=0) >= engine.config.vocab_size:
        raise _wrong(saved, f"a token {max(saved.ids)} of {engine.config.vocab_size:,}")
    if about.rounds > engine.layout.rounds or len(saved.state) != engine.layout.num_bytes(about.rounds):
        raise _wrong(saved, f"{len(saved.state):,} bytes for {about.rounds} rounds")
    if saved.outlook and len(saved.outlook) != engine.outlook_bytes:
        raise _wrong(saved, f"an outlook of {len(saved.outlook)} bytes")
    arena = aligned_zeros(len(saved.state))
    arena[...] = np.frombuffer(saved.state, dtype=np.uint8)
    state = State(arena, rounds=about.rounds, digest=engine.digest)
    _check_numbers(saved, state, engine)
    try:
        settings = about.sampling.settings()
        settings.check_ids(engine.config.vocab_size)
    except ChimeraError as error:
        raise _wrong(saved, error.message) from error
    starts = [0, *(turn.start for turn in about.turns if turn.start is not None), about.position]
    if starts != sorted(starts):
        raise _wrong(saved, "turns that are not in order")
    return Talk(
        snapshot=Snapshot(ids=saved.ids, state=state, outlook=saved.outlook or None),
        system=about.system,
        turns=told_turns(about.turns),
        is_stale=about.is_stale,
        settings=settings,
        rounds=about.rounds,
        exit_threshold=about.exit_threshold,
    )


def check_belongs(saved: SavedState, identity: Identity) -> None:
    """Refuse the state of another model, tokenizer, template or set of adapters, and name both."""
    theirs = saved.about.identity
    for field, what in _KINDS:
        one, other = cast(str, getattr(theirs, field)), cast(str, getattr(identity, field))
        if one != other:
            raise StateError(
                f"{saved.path} was saved with the {what} {_named(theirs, one)}, and this is the {what} "
                f"{_named(identity, other)}",
                hint="A state is good for what made it: name that model with -m.",
            )
    if theirs.adapters != identity.adapters:
        raise StateError(
            f"{saved.path} was saved with the adapters {_digests(theirs.adapters)}, and here are "
            f"{_digests(identity.adapters)}",
            hint="Apply the same adapters in the same order.",
        )


def _check_numbers(saved: SavedState, state: State, engine: Engine) -> None:
    """Refuse what no text leaves behind: numbers that are none, and positions beyond the text."""
    if state.position != saved.about.num_read:
        raise _wrong(saved, f"position {state.position} in a state that has read {saved.about.num_read}")
    for (layer, number, name), placed in engine.layout.places.items():
        if number >= state.rounds:
            continue
        values: NDArray[Any] = placed.view(state.arena)
        if values.dtype == np.float32:
            # Some fields begin at minus infinity, and stay there until the first token.
            is_low = placed.field.initial is not None and bool(np.isneginf(placed.field.initial).any())
            good = np.isfinite(values) | np.isneginf(values) if is_low else np.isfinite(values)
            if not good.all():
                raise _wrong(saved, f"{name} of layer {layer} holds what is no number")
        elif values.dtype == np.int64 and not 0 <= values.min() <= values.max() <= saved.about.num_read:
            raise _wrong(saved, f"{name} of layer {layer} is {values.max()}")


def _wrong(saved: SavedState, what: str) -> StateError:
    return StateError(
        f"{saved.path} is no state of this model: {what}", hint="It was not written by this program."
    )


def _named(identity: Identity, digest: str) -> str:
    if not digest:
        return "none"
    return f"{digest[:DIGEST_SHOWN]}… of {identity.name!r}"


def _digests(adapters: tuple[str, ...]) -> str:
    return ", ".join(digest[:DIGEST_SHOWN] for digest in adapters) or "none"
