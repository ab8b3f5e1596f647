"""What the head heard: of which streams' last tokens its input is, to be put aside and given back.

The input lies in buffers of fixed addresses, which the next step writes anew. As an *outlook* it outlives
that step, so that who goes on from a kept state need not read its last token again.

A program writes the input and moves its streams' positions in one group. So whose input it is can be said
before it runs, by the positions that the streams will have then: wherever an interrupt or an error comes, it
is not true before the program has been there, and true from then on.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from runtime.building.workspace import Int8Rows
from runtime.state import State


class Heard:
    """The head's input, a row for each stream that is heard, and whose rows they are."""

    def __init__(self, hidden: Int8Rows) -> None:
        self._hidden = hidden
        self._owners: tuple[tuple[weakref.ref[State], int], ...] = ()

    def next(self, *owners: tuple[State, int]) -> None:
        """The rows will be those of these streams, in this order, once each has read so many tokens."""
        self._owners = tuple((weakref.ref(state), state.position + count) for state, count in owners)

    def settle(self) -> None:
        """The program was broken off: what it did not come to will not be true."""
        self._owners = tuple(
            (owner, position)
            for owner, position in self._owners
            if (state := owner()) is not None and state.position == position
        )

    def outlook(self, state: State) -> bytes | None:
        """What the head heard of a stream; None where the rows are those of others."""
        wanted = state, state.position
        owners = ((owner(), position) for owner, position in self._owners)
        found = next((number for number, owner in enumerate(owners) if owner == wanted), None)
        if found is None:
            return None
        return b"".join(part.tobytes() for part in _arrays(self._hidden.row(found)))

    @property
    def outlook_bytes(self) -> int:
        """The size of an outlook."""
        return sum(part.nbytes for part in _arrays(self._hidden.row(0)))

    def recall(self, state: State, outlook: bytes) -> None:
        """Write an outlook where the head looks, as if the stream's last token had been read just now."""
        if len(outlook) != self.outlook_bytes:
            raise UsageError(f"an outlook of {len(outlook)} bytes; this model's have {self.outlook_bytes}")
        self.next()
        begin = 0
        for part in _arrays(self._hidden.row(0)):
            part[...] = np.frombuffer(outlook, part.dtype, part.size, begin).reshape(part.shape)
            begin += part.nbytes
        self.next((state, 0))


def _arrays(row: Int8Rows) -> Sequence[NDArray[Any]]:
    return row.codes, row.scales, row.neg_sums
