"""Where the arrays of a stream's state lie: one piece of memory, laid out by layer and round.

All layers' first rounds come first, then the second rounds of the looped ones, and so on. So a state of few
rounds is the beginning of a state of many, and an offset is good for both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
POSITION_OFFSET = 0
"""An int64 before all else: how many tokens the stream has read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StateField:
    """An array of one layer's state in one round."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    initial: NDArray[Any] | float | None = None
    """What it holds before a text, brought to its shape; None is zeros."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlacedField:
    """A field and where it begins."""

    field: StateField
    offset: int

    @property
    def num_bytes(self) -> int:
        return prod(self.field.shape) * np.dtype(self.field.dtype).itemsize

    def view(self, arena: NDArray[np.uint8]) -> NDArray[Any]:
        """The array itself, in a state's memory."""
        flat = arena[self.offset : self.offset + self.num_bytes].view(self.field.dtype)
        return flat.reshape(self.field.shape)


class StateLayout:
    """The fields of all layers and rounds."""

    def __init__(
        self, fields_of_layers: Iterable[Sequence[StateField]], *, looped: Iterable[bool], rounds: int
    ) -> None:
        self.places: dict[tuple[int, int, str], PlacedField] = {}
        self._ends: list[int] = []
        offset = ALIGNMENT
        layers = [list(fields) for fields in fields_of_layers]
        repeats = list(looped)
        for number in range(rounds):
            for index, fields in enumerate(layers):
                for field in fields if number == 0 or repeats[index] else ():
                    placed = PlacedField(field=field, offset=offset)
                    self.places[index, number, field.name] = placed
                    offset += -(-placed.num_bytes // ALIGNMENT) * ALIGNMENT
            self._ends.append(offset)

    @property
    def rounds(self) -> int:
        """The most rounds that there is a layout for."""
        return len(self._ends)

    def num_bytes(self, rounds: int) -> int:
        """The size of a state."""
        return self._ends[rounds - 1]

    def place(self, layer: int, round_number: int, name: str) -> PlacedField:
        return self.places[layer, round_number, name]

    def begin(self, rounds: int) -> NDArray[np.uint8]:
        """The memory of a state before a text."""
        arena = aligned_zeros(self.num_bytes(rounds))
        self.set_initial(arena, rounds)
        return arena

    def set_initial(self, arena: NDArray[np.uint8], rounds: int) -> None:
        """Make memory that holds zeros the state before a text."""
        for (_, number, _), placed in self.places.items():
            if number < rounds and placed.field.initial is not None:
                placed.view(arena)[...] = placed.field.initial


def aligned_zeros(num_bytes: int) -> NDArray[np.uint8]:
    """Memory that begins at a cache line."""
    memory = np.zeros(num_bytes + ALIGNMENT, dtype=np.uint8)
    skipped = -memory.ctypes.data % ALIGNMENT
    return memory[skipped : skipped + num_bytes]
