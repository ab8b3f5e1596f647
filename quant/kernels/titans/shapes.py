"""Sizes of a Titans layer, and the arrays of its state.

A head's vectors are padded with zeros to whole blocks of 64, so that kernels read whole registers. The
memory's weights lie transposed, [inputs, outputs]: a product with a vector then runs along the outputs.

The memory of a head is held twice. In chunk c (position // chunk) copy c mod 2 is the memory at the chunk's
start, which is read, and the other copy the running one. At a border the running one becomes the one that is
read because c grows; the first token writes its update into the other copy. So nothing is ever copied, and no
token of a chunk costs more than another.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.activations import BLOCK, num_blocks

LANES = 16
LARGEST_HEAD = 256
"""Channels of a head; a kernel's work space is made for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TitansShape:
    """The sizes of a layer."""

    num_heads: int
    head_dim: int
    num_slots: int
    window: int
    memory_chunk: int

    def __post_init__(self) -> None:
        if self.head_dim % 2 or not 2 <= self.head_dim <= LARGEST_HEAD:
            raise UsageError(
                f"a head must have an even number of channels, 2 … {LARGEST_HEAD}; got {self.head_dim}"
            )
        for name, least in (("num_heads", 1), ("num_slots", 0), ("window", 1), ("memory_chunk", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def padded_dim(self) -> int:
        """Channels of a head with its padding."""
        return num_blocks(self.head_dim) * BLOCK

    @property
    def num_scores(self) -> int:
        """Scores of a head: slots, the chunk's answers and the window, each padded to whole registers."""
        return sum(-(-count // LANES) * LANES for count in (self.num_slots, self.memory_chunk, self.window))


class StateArray(NamedTuple):
    """An array of a stream's state."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class TitansState(NamedTuple):
    """What a layer carries from token to token, beside the tails of its convolutions and the position.

    A text begins with the learned memory in both copies and zeros elsewhere.
    """

    memory: NDArray[np.float32]  # [H, 2 copies, W1 and W2, K, padded K]
    momentum: NDArray[np.float32]  # [H, W1 and W2, K, padded K]
    answers: NDArray[np.float32]  # [H, C, padded K] what the memory answered to this chunk's tokens
    answer_scales: NDArray[np.float32]  # [H, C] 1 / √(Σ answer² + ε)
    keys: NDArray[np.int8]  # [H, W, padded K] turned keys; position p lies in place p mod W
    key_scales: NDArray[np.float32]  # [H, W]
    values: NDArray[np.int8]  # [H, W, padded K]
    value_scales: NDArray[np.float32]  # [H, W]


def state_arrays(shape: TitansShape) -> tuple[StateArray, ...]:
    """The arrays of a layer's state, in the order of `TitansState`."""
    H, K, W, C = shape.num_heads, shape.head_dim, shape.window, shape.memory_chunk
    padded = shape.padded_dim
    return (
        StateArray("memory", "float32", (H, 2, 2, K, padded)),
        StateArray("momentum", "float32", (H, 2, K, padded)),
        StateArray("answers", "float32", (H, C, padded)),
        StateArray("answer_scales", "float32", (H, C)),
        StateArray("keys", "int8", (H, W, padded)),
        StateArray("key_scales", "float32", (H, W)),
        StateArray("values", "int8", (H, W, padded)),
        StateArray("value_scales", "float32", (H, W)),
    )


def empty_state(shape: TitansShape) -> TitansState:
    """Arrays of their own for a state, all zero."""
    return TitansState._make(np.zeros(array.shape, array.dtype) for array in state_arrays(shape))


def begin_text(state: TitansState, *, initial_memory: NDArray[np.float32]) -> None:
    """The state before the first token, written into the arrays that there are."""
    for array in state:
        array[...] = 0
    state.memory[...] = initial_memory[:, None]
