"""What a Titans layer carries from token to token."""

from typing import NamedTuple

from torch import Tensor


class FastWeights(NamedTuple):
    """The memory's weights of every head, [B, H, 2, K, K] each."""

    border: Tensor
    """The weights at the start of the last token's chunk: what is read, and where gradients are taken."""
    memory: Tensor
    """The weights after the last token."""
    momentum: Tensor
    """The sum of past gradients that still pushes."""


class AttentionState(NamedTuple):
    """What the attention still sees, and where the stream stands."""

    chunk_keys_BHCK: Tensor
    """Keys of the current chunk's memory tokens; zero where there is none yet."""
    chunk_values_BHCV: Tensor
    window_keys_BHWK: Tensor
    """Rotated keys; the token at position p lies in slot p modulo the window. Zero where there is none."""
    window_values_BHWV: Tensor
    position_B: Tensor
    """Position of the next token in its document, int64."""


class TitansState(NamedTuple):
    """The state of a Titans layer."""

    fast: FastWeights
    attention: AttentionState
    tails: tuple[Tensor, Tensor, Tensor]
    """The last inputs of the three convolutions: query, key, value; [B, Y-1, H·K] each."""


def fresh_weights(initial: Tensor, batch: int) -> FastWeights:
    """The weights before a text: the learned ones [H, 2, K, K], and no momentum."""
    shape = (batch, *initial.shape)
    # Three tensors: two fields that are one object would be another kind of state to torch.compile.
    return FastWeights(
        border=initial.expand(shape), memory=initial.expand(shape), momentum=initial.new_zeros(shape)
    )
