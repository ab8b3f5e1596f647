"""Activations as int8 codes with one scale per block of 64 inputs: the plain reference of every fast form.

    m = max(max|x|, 1e-5);  inv = 127 / m;  d = m / 127;  q = rint(x * inv)

Every operation is a float32 operation rounded once, half to even. Dividing by d in place of multiplying by
inv gives another code in a quarter of the blocks, so all forms multiply.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError

BLOCK = 64
MAX_CODE = 127
SMALLEST_MAXIMUM = np.float32(1e-5)

ActBlock: TypeAlias = Literal[64, "token"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedActivations:
    """Tokens as int8 codes, padded with zeros to whole blocks.

    A scale per token is stored as equal scales of its blocks, so that a product knows one form only.
    `neg_sums` is −Σ codes of each block: where a product begins to count when weights are stored plus one.
    """

    codes: NDArray[np.int8]  # [tokens, blocks * 64]
    scales: NDArray[np.float32]  # [tokens, blocks]
    neg_sums: NDArray[np.int32]  # [tokens, blocks]
    num_inputs: int


def num_blocks(num_inputs: int) -> int:
    """Blocks of 64 that hold `num_inputs` inputs; the last may be short."""
    return -(-num_inputs // BLOCK)


def quantize_activations(x_TI: NDArray[np.float32], *, block: ActBlock = BLOCK) -> QuantizedActivations:
    """The int8 form of float32 tokens; `block` says which values share a scale."""
    if block not in (BLOCK, "token"):
        raise UsageError(f"activation block {block!r} is unknown; allowed are {BLOCK} and 'token'")
    checked_float_matrix(x_TI, what="the activations")
    num_tokens, num_inputs = x_TI.shape
    blocks = num_blocks(num_inputs)
    padded_TQ_64 = np.zeros((num_tokens, blocks, BLOCK), dtype=np.float32)
    padded_TQ_64.reshape(num_tokens, -1)[:, :num_inputs] = x_TI
    largest_TQ = np.abs(padded_TQ_64).max(axis=2)
    if block == "token":
        largest_TQ = np.broadcast_to(largest_TQ.max(axis=1, keepdims=True), largest_TQ.shape)
    largest_TQ = np.maximum(largest_TQ, SMALLEST_MAXIMUM, dtype=np.float32)
    inverse_TQ = np.float32(MAX_CODE) / largest_TQ
    codes_TQ_64 = np.rint(padded_TQ_64 * inverse_TQ[:, :, None]).astype(np.int8)
    return QuantizedActivations(
        codes=codes_TQ_64.reshape(num_tokens, -1),
        scales=np.divide(largest_TQ, np.float32(MAX_CODE), dtype=np.float32),
        neg_sums=-codes_TQ_64.sum(axis=2, dtype=np.int32),
        num_inputs=num_inputs,
    )


def dequantize_activations(acts: QuantizedActivations) -> NDArray[np.float32]:
    """The float32 tokens that the codes stand for."""
    num_tokens, blocks = acts.scales.shape
    codes_TQ_64 = acts.codes.reshape(num_tokens, blocks, BLOCK).astype(np.float32)
    values = (codes_TQ_64 * acts.scales[:, :, None]).reshape(num_tokens, -1)
    return values[:, : acts.num_inputs]


def block_sums(codes_OI: NDArray[np.int8], acts: QuantizedActivations, *, block: int) -> NDArray[np.float32]:
    """Σ weight code × activation code over one block, for every token and row: [tokens, rows].

    The sums are whole numbers below 2**24 (64 × 127 × 127 at most), so a float32 matrix product holds every
    partial sum exactly, in whatever order the library adds; it is a hundred times faster than an integer one.
    """
    inputs = slice(block * BLOCK, (block + 1) * BLOCK)
    weights_OI = codes_OI[:, inputs].astype(np.float32)
    tokens_TI = acts.codes[:, inputs][:, : weights_OI.shape[1]].astype(np.float32)
    return tokens_TI @ weights_OI.T


def checked_float_matrix(values: NDArray[np.float32], *, what: str) -> None:
    """Refuse what is not a finite float32 matrix with at least one entry."""
    if values.dtype != np.float32:
        raise UsageError(
            f"{what} must be float32, got {values.dtype}", hint="Convert with .astype(numpy.float32)."
        )
    if values.ndim != 2 or values.size == 0:
        raise UsageError(f"{what} must be a matrix with at least one entry, got the shape {values.shape}")
    # The extremes carry a NaN or an infinity with them, and need no array of booleans as large as a model.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        row, column = (int(at[0]) for at in np.nonzero(~np.isfinite(values)))
        raise UsageError(f"{what} must be finite, got {values[row, column]} at row {row}, column {column}")
