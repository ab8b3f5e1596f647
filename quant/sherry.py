"""Ternary weights with exactly one zero in every four: 32 patterns, and so 5 bits for four weights.

Of four consecutive inputs of a row the smallest magnitude becomes 0, of equal ones the first; the other three
keep their signs, and zero counts as positive. A group's scale is the mean magnitude of what it keeps:

    s = float16(mean of the kept |w|);  code = 0 for the smallest of four, else −1 where w < 0 and 1 elsewhere

Nothing is divided by this scale, so it has no least value: a group of zeros has scale 0. A row's last four
may be fewer; the missing ones count as magnitude 0 behind the real ones, and are in no mean.

The result is a ternary matrix like any other, and its product is `quant.ternary.ternary_matmul`. Sherry
(2026), section 3: this is its 3:4 rule with 1.25 bits a weight.
"""

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.activations import checked_float_matrix
from quant.ternary import FLOAT16_OVERFLOW, GROUP, GroupSize, TernaryWeights

FOUR = 4


def quantize_sherry(weight_OI: NDArray[np.float32], *, group_size: GroupSize = GROUP) -> TernaryWeights:
    """Codes and scales of a float32 matrix with rows = outputs and columns = inputs."""
    checked_float_matrix(weight_OI, what="the weights")
    num_inputs = weight_OI.shape[1]
    size = group_size if isinstance(group_size, int) else num_inputs
    if size < 1 or (size < num_inputs and size % FOUR):
        raise UsageError(
            f"groups of {size} inputs cut four weights that share one zero; allowed are multiples of 4"
        )
    codes = _codes(weight_OI)
    scales = _scales(weight_OI, codes=codes, size=size, whole=group_size == "tensor")
    return TernaryWeights(codes=codes, scales=scales, group_size=size)


def obeys_three_of_four(codes_OI: NDArray[np.int8]) -> bool:
    """Whether whole fours have exactly one zero, and the last, short one at most one."""
    num_rows, num_inputs = codes_OI.shape
    whole = num_inputs // FOUR * FOUR
    zeros = (codes_OI[:, :whole].reshape(num_rows, -1, FOUR) == 0).sum(axis=2)
    return bool((zeros == 1).all() and ((codes_OI[:, whole:] == 0).sum(axis=1) <= 1).all())


def _codes(weight_OI: NDArray[np.float32]) -> NDArray[np.int8]:
    num_rows, num_inputs = weight_OI.shape
    padded = np.zeros((num_rows, -(-num_inputs // FOUR) * FOUR), dtype=np.float32)
    padded[:, :num_inputs] = weight_OI
    fours = padded.reshape(num_rows, -1, FOUR)
    codes = np.where(fours < 0, np.int8(-1), np.int8(1))
    # The first of equal magnitudes, which is what argmin gives.
    np.put_along_axis(codes, np.abs(fours).argmin(axis=2)[..., None], np.int8(0), axis=2)
    return np.ascontiguousarray(codes.reshape(num_rows, -1)[:, :num_inputs])


def _scales(
    weight_OI: NDArray[np.float32], *, codes: NDArray[np.int8], size: int, whole: bool
) -> NDArray[np.float16]:
    """The mean is summed in float64, as that of `quant.ternary`, so that the order does not show."""
    kept = np.where(codes != 0, np.abs(weight_OI), np.float32(0))
    starts = list(range(0, weight_OI.shape[1], size))
    sums = np.add.reduceat(kept, starts, axis=1, dtype=np.float64)
    counts = np.add.reduceat(codes != 0, starts, axis=1, dtype=np.int64)
    if whole:
        sums, counts = sums.sum(axis=0, keepdims=True), counts.sum(axis=0, keepdims=True)
    # A matrix of one column keeps nothing.
    means = sums / np.maximum(counts, 1)
    if means.max() >= FLOAT16_OVERFLOW:
        raise UsageError(
            f"a group of weights keeps the mean magnitude {means.max():.6g}; a float16 scale holds less than"
            f" {FLOAT16_OVERFLOW:.0f}",
            hint="Divide the weights by a constant and multiply the norm's gain before them by it.",
        )
    return np.broadcast_to(
        means.astype(np.float32).astype(np.float16), (weight_OI.shape[0], len(starts))
    ).copy()
