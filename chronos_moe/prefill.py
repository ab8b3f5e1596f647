"""What to read before the first token of an answer: the experts that its prompt foretells, in order.

A layer whose experts the classifier is sure of nothing falls back on how often they are visited at all. The
best of each layer come first, layer by layer as a token meets them, then the second best, and so on: so
whatever room there is, all layers share it alike.
"""

from collections.abc import Sequence

import numpy as np

from chronos_moe.intent_file import Floats
from chronos_moe.store.predictors import Wish

THRESHOLD = 0.25
"""An expert that fewer of an answer's tokens visit is not worth room that another may want."""
LEAST_CONFIDENCE = 0.15
"""A layer whose best score is below is one that the classifier knows nothing of."""


def prefill_wishes(
    scores_LE: Floats,
    *,
    usage_LE: Floats,
    order: Sequence[int],  # the passes of a token: the row of each one's layer
    room: int,
) -> list[Wish]:
    """At most `room` experts, the most worthy first, as wishes for the passes in which they come first."""
    first_pass = {row: order.index(row) for row in dict.fromkeys(order)}
    ranked: list[tuple[int, int, int, int]] = []
    for row, scores in enumerate(scores_LE):
        known = float(scores.max()) >= LEAST_CONFIDENCE
        worth = scores if known else usage_LE[row]
        for rank, expert in enumerate(np.argsort(-worth, kind="stable")):
            if known and worth[expert] < THRESHOLD:
                break
            ranked.append((rank, first_pass[row], row, int(expert)))
    ranked.sort()
    return [
        Wish(layer=row, expert=expert, passes_ahead=at + 1) for _, at, row, expert in ranked[: max(0, room)]
    ]
