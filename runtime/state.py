"""A stream's state: all that a text so far has left behind, in one piece of memory of constant size."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from runtime.arena import POSITION_OFFSET, aligned_zeros


class State:
    """What `Engine.new_state` gives. It belongs to the model whose digest it names."""

    __slots__ = ("__weakref__", "_position", "address", "arena", "digest", "is_broken_off", "rounds")

    def __init__(self, arena: NDArray[np.uint8], *, rounds: int, digest: str) -> None:
        self.arena = arena
        """All of it, as bytes; a copy of them is a copy of the state."""
        self.rounds = rounds
        """Rounds of the loop that there is room for."""
        self.digest = digest
        self.is_broken_off = False
        """Whether a step ended half-way, so that nothing may go on from here."""
        self.address = arena.ctypes.data
        self._position = arena[POSITION_OFFSET : POSITION_OFFSET + 8].view(np.int64)

    @property
    def position(self) -> int:
        """Tokens that the stream has read."""
        return int(self._position[0])

    @property
    def num_bytes(self) -> int:
        return self.arena.nbytes

    def copy(self) -> Self:
        """The same stream at the same place, from here on of its own."""
        arena = aligned_zeros(self.num_bytes)
        arena[...] = self.arena
        found = type(self)(arena, rounds=self.rounds, digest=self.digest)
        found.is_broken_off = self.is_broken_off
        return found
