"""The sampler, written out: every id is ranked, and every step goes over all that are left."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary.reference import log
from quant.kernels.vocabulary.places import WEIGHT_BITS
from quant.kernels.vocabulary.reference import weights
from runtime.randomness import random_below
from runtime.sampling import FORBIDDEN, SamplingSettings

Floats = NDArray[np.float32]


def choose(
    logits: Floats,
    settings: SamplingSettings,
    *,
    recent: Sequence[int],
    position: int,
    branch: int = 0,
    forbidden: frozenset[int] = frozenset(),
    spared: frozenset[int] = frozenset(),
) -> int:
    """The token that `Sampler.choose` gives."""
    scores = changed_scores(logits, settings, recent=recent, forbidden=forbidden, spared=spared)
    values = scores.tolist()
    ranks = sorted(range(scores.size), key=lambda token: (-values[token], token))
    if settings.is_greedy:
        return ranks[0]
    found, _ = weights(scores, scores[ranks[0]], np.float32(settings.temperature))
    weight_of = [int(weight) for weight in found]
    kept = ranks[: settings.top_k or None]
    if settings.top_p < 1:
        kept = _nucleus(kept, weight_of, share=Fraction(settings.top_p))
    least = Fraction(settings.min_p) * 2**WEIGHT_BITS
    kept = sorted(token for token in kept if weight_of[token] >= least)
    total = sum(weight_of[token] for token in kept)
    left = random_below(total, seed=settings.seed, position=position, branch=branch)
    for token in kept:
        left -= weight_of[token]
        if left < 0:
            return token
    raise AssertionError("the draw lies below the sum of the weights")


def changed_scores(
    logits: Floats,
    settings: SamplingSettings,
    *,
    recent: Sequence[int],
    forbidden: frozenset[int],
    spared: frozenset[int],
) -> Floats:
    """The logits after bias and repetition penalty."""
    scores = logits.copy()
    for token, bias in {**settings.logit_bias, **dict.fromkeys(forbidden, FORBIDDEN)}.items():
        scores[token] += np.float32(bias)
    penalty = np.float32(settings.repetition_penalty)
    window = recent[-settings.repetition_window :] if settings.repetition_window else ()
    for token in set(window) - spared:
        score = scores[token]
        scores[token] = np.divide(score, penalty) if score > 0 else score * penalty
    return scores


def log_probabilities(logits: Floats) -> Floats:
    """Natural logarithms of the model's own probabilities."""
    best = logits.max()
    found, _ = weights(logits, best, np.float32(1))
    total = np.float32(sum(int(weight) for weight in found)) * np.float32(2.0**-WEIGHT_BITS)
    return logits - best - log(np.array([total]))


def _nucleus(ranks: list[int], weight_of: list[int], *, share: Fraction) -> list[int]:
    """The shortest run of ranks that holds the share of them all."""
    total = sum(weight_of[token] for token in ranks)
    kept, held = [ranks[0]], weight_of[ranks[0]]
    for token in ranks[1:]:
        if held >= share * total:
            break
        kept.append(token)
        held += weight_of[token]
    return kept
