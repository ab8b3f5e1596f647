"""What a ternary weight is: codes −1, 0, +1 with a float16 scale per group of inputs, and its product.

    s = float16(max(mean|w|, 1e-5));  code = clip(rint(w / s), −1, 1)

The scale is rounded to float16 before anything uses it, in training and in a file alike, so that no second
value of it exists. The mean is summed in float64, where the sum of a group is exact unless its weights differ
by a factor of a million, so that the order of summation does not show.

The product with int8 activations has one definition, kept by every kernel. For row o, blocks b of 64 inputs
in order, from y = 0, every float32 operation rounded separately:

    y = y + (s[o, group of b] * d[b]) * float(Σ code * q)
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.activations import BLOCK, QuantizedActivations, block_sums, checked_float_matrix, num_blocks

GROUP = 128
SMALLEST_MEAN = 1e-5
# From here on, rounding to float16 gives infinity.
FLOAT16_OVERFLOW = 65520.0

GroupSize: TypeAlias = int | Literal["row", "tensor"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TernaryWeights:
    """A ternary matrix. One scale per row, or per tensor, is one group as long as the row."""

    codes: NDArray[np.int8]  # [rows, inputs], −1, 0 or 1
    scales: NDArray[np.float16]  # [rows, groups]
    group_size: int


def num_groups(num_inputs: int, *, group_size: int) -> int:
    """Groups of a row; the last may be short."""
    return -(-num_inputs // group_size)


def quantize_ternary(weight_OI: NDArray[np.float32], *, group_size: GroupSize = GROUP) -> TernaryWeights:
    """Codes and scales of a float32 matrix with rows = outputs and columns = inputs."""
    scales = ternary_scales(weight_OI, group_size=group_size)
    inputs_per_group = group_size if isinstance(group_size, int) else weight_OI.shape[1]
    codes = ternary_codes(weight_OI, scales=scales, group_size=inputs_per_group)
    return TernaryWeights(codes=codes, scales=scales, group_size=inputs_per_group)


def ternary_scales(weight_OI: NDArray[np.float32], *, group_size: GroupSize = GROUP) -> NDArray[np.float16]:
    """The scale of every group, [rows, groups]; a short group's mean is over its real entries."""
    checked_float_matrix(weight_OI, what="the weights")
    num_rows, num_inputs = weight_OI.shape
    if group_size == "tensor":
        mean = np.abs(weight_OI).mean(dtype=np.float64)
        means_OG = np.full((num_rows, 1), mean, dtype=np.float64)
    else:
        size = num_inputs if group_size == "row" else _checked_group_size(group_size)
        starts = range(0, num_inputs, size)
        means_OG = np.empty((num_rows, len(starts)), dtype=np.float64)
        for group, start in enumerate(starts):
            np.abs(weight_OI[:, start : start + size]).mean(axis=1, dtype=np.float64, out=means_OG[:, group])
    if means_OG.max() >= FLOAT16_OVERFLOW:
        raise UsageError(
            f"a group of weights has the mean magnitude {means_OG.max():.6g}; a float16 scale holds less than"
            f" {FLOAT16_OVERFLOW:.0f}",
            hint="Divide the weights by a constant and multiply the norm's gain before them by it.",
        )
    return np.maximum(means_OG, SMALLEST_MEAN).astype(np.float32).astype(np.float16)


def ternary_codes(
    weight_OI: NDArray[np.float32], *, scales: NDArray[np.float16], group_size: int
) -> NDArray[np.int8]:
    """The nearest of −1, 0, 1 for every weight divided by its group's scale, half to even."""
    spread_OI = _spread(scales, num_inputs=weight_OI.shape[1], group_size=group_size)
    ratio_OI = np.divide(weight_OI, spread_OI, out=spread_OI)
    np.rint(ratio_OI, out=ratio_OI)
    return np.clip(ratio_OI, -1, 1, out=ratio_OI).astype(np.int8)


def dequantize_ternary(weights: TernaryWeights) -> NDArray[np.float32]:
    """The float32 matrix that the codes stand for."""
    spread_OI = _spread(weights.scales, num_inputs=weights.codes.shape[1], group_size=weights.group_size)
    return np.multiply(spread_OI, weights.codes, out=spread_OI)


def regroup(weights: TernaryWeights, *, group_size: int = GROUP) -> TernaryWeights:
    """The same weights with their scales written out for smaller groups, as a file stores them."""
    _checked_group_size(group_size)
    num_inputs = weights.codes.shape[1]
    if weights.group_size < num_inputs and weights.group_size % group_size:
        raise UsageError(
            f"groups of {weights.group_size} inputs cannot be written as groups of {group_size}; allowed are "
            "divisors of it",
            hint=f"Quantise with group_size={group_size}.",
        )
    sources = [start // weights.group_size for start in range(0, num_inputs, group_size)]
    scales = np.ascontiguousarray(weights.scales[:, sources])
    return TernaryWeights(codes=weights.codes, scales=scales, group_size=group_size)


def ternary_matmul(weights: TernaryWeights, acts: QuantizedActivations) -> NDArray[np.float32]:
    """The product for any number of tokens, [tokens, rows], as the module's docstring defines it."""
    num_rows, num_inputs = weights.codes.shape
    checked_inputs(acts, num_inputs=num_inputs)
    if weights.scales.shape[1] > 1 and weights.group_size % BLOCK:
        raise UsageError(
            f"groups of {weights.group_size} inputs cut a block of {BLOCK} activations; the product needs a "
            f"multiple of {BLOCK}"
        )
    y_TO = np.zeros((acts.codes.shape[0], num_rows), dtype=np.float32)
    for block in range(num_blocks(num_inputs)):
        scales_O = weights.scales[:, block * BLOCK // weights.group_size].astype(np.float32)
        scales_TO = scales_O[None, :] * acts.scales[:, block, None]
        y_TO += scales_TO * block_sums(weights.codes, acts, block=block)
    return y_TO


def ternary_matvec(weights: TernaryWeights, acts: QuantizedActivations) -> NDArray[np.float32]:
    """The product for one token, [rows]."""
    if acts.codes.shape[0] != 1:
        raise UsageError(f"a matrix-vector product takes one token, got {acts.codes.shape[0]}")
    return ternary_matmul(weights, acts)[0]


def checked_inputs(acts: QuantizedActivations, *, num_inputs: int) -> None:
    """Refuse activations of another width than the weights'."""
    if acts.num_inputs != num_inputs:
        raise UsageError(f"the weights take {num_inputs} inputs, the activations have {acts.num_inputs}")


def _spread(scales: NDArray[np.float16], *, num_inputs: int, group_size: int) -> NDArray[np.float32]:
    """Each group's scale at each of its inputs, [rows, inputs]."""
    spread = np.repeat(scales.astype(np.float32), min(group_size, num_inputs), axis=1)
    return np.ascontiguousarray(spread[:, :num_inputs])


def _checked_group_size(group_size: object) -> int:
    if not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1:
        raise UsageError(
            f"group size {group_size!r} is unknown; allowed are whole numbers from 1, 'row', 'tensor'"
        )
    return group_size
