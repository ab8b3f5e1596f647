"""What a stream remembers before its first word: the memories of the layers, learnt.

A text begins with memories of zeros, or of what training has put there. Here they begin with more:
initial + δ · 2^(e − 14), with one δ for each number, as `runtime.adapting.drift` has it, and one e for each
memory: 2^e is about what its numbers weigh once a text was read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from configs.errors import AdapterError
from quant.adapter import Adapter, Setting
from runtime.adapting.drift import UNIT_BITS, Drift, look_length
from runtime.adapting.learnt import made_of, number_told, replay
from runtime.arena import StateLayout

STATE = "state"
"""The method whose adapters change no weight."""
MEMORY, LOG_SCALE = "memory", "log_scale"
DEFAULT_EPSILON = 0.05
MOST_EXPONENT = 24
"""Of a memory's numbers, to both sides: squares of products of such ones can still be held."""
Floats = NDArray[np.float32]
Place = tuple[int, int]
"""A layer and a round."""


class BeginState:
    """The beginnings of an engine's streams."""

    def __init__(self, layout: StateLayout, *, seed: int, settings: Mapping[str, Setting]) -> None:
        self._epsilon = look_length(number_told(settings, "epsilon"))
        self._exponents = exponents_of(str(settings["exponents"]))
        unknown = self._exponents.keys() - set(memories(layout))
        if unknown:
            raise AdapterError(
                f"an adapter of the state of layer {min(unknown)[0]} in round {min(unknown)[1]}, which this "
                "model does not have"
            )
        self._begins = [_prepared(layout, place) for place in self._exponents]
        # Most begin with zeros, which nobody has to keep.
        self._base = [part.copy() if part.any() else None for part in self._begins]
        self._drift = Drift([part.size for part in self._begins], seed=seed)

    @property
    def num_bytes(self) -> int:
        """Memory of what is kept beside the model."""
        return self._drift.num_bytes + sum(
            begin.nbytes + (0 if base is None else base.nbytes)
            for begin, base in zip(self._begins, self._base, strict=True)
        )

    def look(self, step: int, *, pair: int = 0, side: int) -> None:
        """Have streams that begin from here on stand to one side of what was learnt."""
        parts = zip(self._begins, self._base, self._exponents.values(), strict=True)
        for stream, (begin, base, exponent) in enumerate(parts):
            delta = self._drift.at(stream, step=step, pair=pair, by=side * self._epsilon)
            moved = delta.astype(np.float32) * np.float32(2.0 ** (exponent - UNIT_BITS))
            moved = moved.reshape(begin.shape)
            begin[...] = moved if base is None else base + moved

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None:
        """End a step."""
        self._drift.apply(step, lengths, decay=decay)

    def settle(self) -> None:
        """Have streams begin where the last step ended."""
        self.look(0, side=0)


def begin_learnt(layout: StateLayout, adapters: Sequence[Adapter]) -> None:
    """Have streams begin as the adapters of states among these have learnt."""
    for adapter in adapters:
        if adapter.header.method == STATE:
            replay(adapter, made_of(adapter, partial(BeginState, layout)))


def memories(layout: StateLayout) -> list[Place]:
    """Where there are memories, in their order."""
    return [(layer, number) for layer, number, name in layout.places if name == MEMORY]


def read_part(memory: Floats) -> Floats:
    """What a text's first token reads of a memory. Titans keeps each twice, and reads the first."""
    return memory[:, 0] if memory.ndim > 3 else memory


def exponents_of(words: str) -> dict[Place, int]:
    """As in "0.0:-3 2.1:-4": layer, round, exponent."""
    found: dict[Place, int] = {}
    for word in words.split():
        place, _, exponent = word.partition(":")
        layer, _, number = place.partition(".")
        try:
            found[int(layer), int(number)] = int(exponent)
        except ValueError:
            raise AdapterError(f"an adapter of a state says {word[:40]!r} of a memory") from None
        if abs(found[int(layer), int(number)]) > MOST_EXPONENT:
            raise AdapterError(
                f"an adapter of a state says {word[:40]!r} of a memory; exponents of at most {MOST_EXPONENT} "
                "are what a run writes"
            )
    return dict(sorted(found.items()))


def written_exponents(exponents: Mapping[Place, int]) -> str:
    """The same as a setting."""
    return " ".join(f"{layer}.{number}:{exponent}" for (layer, number), exponent in exponents.items())


def _prepared(layout: StateLayout, place: Place) -> Floats:
    """A beginning of its own for a memory: the part of it that moves."""
    if (*place, LOG_SCALE) in layout.places:
        # Of a memory at minus infinity nothing would be left after the first token.
        _own_begin(layout, (*place, LOG_SCALE))[...] = 0
    return read_part(_own_begin(layout, (*place, MEMORY)))


def _own_begin(layout: StateLayout, key: tuple[int, int, str]) -> Floats:
    """What a field holds before a text, in an array that may be written."""
    placed = layout.places[key]
    begin = np.zeros(placed.field.shape, dtype=np.float32)
    if placed.field.initial is not None:
        begin[...] = placed.field.initial
    layout.places[key] = replace(placed, field=replace(placed.field, initial=begin))
    return begin
