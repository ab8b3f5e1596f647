"""Multi-query associative recall: pairs of ids, then the first of each again, whose partners are asked for.

It needs no text and no tokenizer, and shows how much a state can hold. Queries come soon after the pairs
more often than late, by a power law. Paper: Arora et al. (2023), Zoology, section 3.
"""

import numpy as np
from numpy.typing import NDArray

from chimera.data.batches import IGNORED
from configs.errors import UsageError

EMPTY = 0
"""The id between queries; no key and no value."""


def associative_recall(
    rows: int, *, num_pairs: int, length: int, vocab_size: int, seed: int, power: float = 0.01
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and labels, [rows, length]: the label at a query is its value, −100 stands everywhere else.

    Keys are of the lower half of the vocabulary, no two alike in a row; values are of the upper half.
    """
    half = vocab_size // 2
    places = (length - 2 * num_pairs) // 2
    if num_pairs < 1 or rows < 1 or places < num_pairs or half - 1 < num_pairs:
        raise UsageError(
            f"{rows} rows of {length} ids with {num_pairs} pairs out of {vocab_size} ids",
            hint="A row needs 4 ids for each pair, and the vocabulary 2 for each and 2 more.",
        )
    draw = np.random.default_rng((seed, 3))
    weights = np.arange(1, places + 1) ** (power - 1.0)
    ids = np.full((rows, length), EMPTY, dtype=np.int64)
    labels = np.full((rows, length), IGNORED, dtype=np.int64)
    for row in range(rows):
        keys = draw.permutation(half - 1)[:num_pairs] + 1
        values = draw.integers(half, vocab_size, size=num_pairs)
        ids[row, 0 : 2 * num_pairs : 2], ids[row, 1 : 2 * num_pairs : 2] = keys, values
        asked = draw.choice(places, size=num_pairs, replace=False, p=weights / weights.sum())
        at = 2 * num_pairs + 2 * asked
        # The value follows its query, as it would in a text.
        ids[row, at], ids[row, at + 1], labels[row, at] = keys, values, values
    return ids, labels
