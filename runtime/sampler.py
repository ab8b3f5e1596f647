"""The next token out of a model's logits. `runtime.sampling` says what can be asked for, and in what order.

- Ranks are by (score, id): by falling score, the lower id first among equals.
- Weights are whole numbers of 2^-38, so shares, sums and the draw are exact: no order of summation, no chunk
  and no thread can change them, and the tokens that a cut leaves draw the same whether the rest of the
  vocabulary was looked at or not.
- The draw takes the kept tokens in the order of their ids, and one number of Philox, keyed by seed, position,
  draw and branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import ModelError, UsageError
from quant.kernels.elementary.reference import log
from quant.kernels.vocabulary.places import CHUNK, WEIGHT_BITS
from runtime.randomness import random_below
from runtime.ranking import best_places, places_in, ranked
from runtime.sampling import FORBIDDEN, SamplingSettings, check_log_probs
from runtime.weigher import Weigher

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

LARGEST_WEIGHT = 1 << WEIGHT_BITS
_ONE = np.float32(1)
_NO_IDS: Integers = np.empty(0, dtype=np.int64)


class Head(Protocol):
    """Where logits come from. `runtime.head` gives those of an engine."""

    def logits(self) -> Floats:
        """All of them."""
        ...

    def candidates(self, changed: Integers, *, count: int, below_best: float) -> Integers | None:
        """Rising ids, among them all whose logits may matter; or None where looking at all costs less.

        With L the `count`-th best logit outside of `changed`, they are those from L − `below_best` on.
        """
        ...

    def selected(self, ids: Integers) -> Floats:
        """The logits of some ids; the sampler may change them."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A token and, where they were asked for, natural logarithms of probabilities.

    They are those of the model itself: before bias, penalty, temperature and cuts.
    """

    token: int
    log_prob: float | None = None
    best: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with theirs, by rank."""


class Sampler:
    """Chooses tokens. It keeps no state but memory: a choice depends on what `choose` is given alone.

    Ids from `num_ids` on, and those in `forbidden`, are never given. Those in `spared` bear no repetition
    penalty: a talk whose markers are punished for coming back never ends its turns. Samplers that take turns
    may share a weigher, which is all the memory that one needs.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        *,
        num_ids: int,
        forbidden: frozenset[int] = frozenset(),
        spared: frozenset[int] = frozenset(),
        weigher: Weigher | None = None,
    ) -> None:
        settings.check_ids(num_ids)
        self.settings = settings
        self.num_ids = num_ids
        self._spared = spared
        bias = {token: float(value) for token, value in settings.logit_bias.items() if value}
        bias |= {token: FORBIDDEN for token in forbidden if token < num_ids}
        self._biased: Integers = np.array(sorted(bias), dtype=np.int64)
        self._bias: Floats = np.array([bias[token] for token in sorted(bias)], dtype=np.float32)
        self._penalty = np.float32(settings.repetition_penalty)
        self._temperature = np.float32(settings.temperature)
        self._top_p = settings.top_p.as_integer_ratio()
        # A share below the unit asks for one unit: what weighs nothing is never drawn.
        self._least_weight = int(-(-Fraction(settings.min_p) * LARGEST_WEIGHT // 1))
        self._below_best = _below_best(settings)
        self._weigher = weigher or Weigher(num_ids)

    def choose(
        self,
        head: Head,
        *,
        recent: Sequence[int],
        position: int,
        branch: int = 0,
        num_log_probs: int | None = None,
    ) -> Choice:
        """The token at a position, after `recent`. With `num_log_probs`, its log-probability and the best."""
        if num_log_probs is not None:
            check_log_probs(num_log_probs)
        penalised = self._penalised(recent)
        if num_log_probs is None and not self.settings.needs_all:
            ids = self._candidates(head, penalised)
            if ids is not None:
                scores = self._changed(head.selected(ids), ids=ids, penalised=penalised)
                return Choice(token=int(ids[self._place(scores, position=position, branch=branch)]))
        logits = head.logits()[: self.num_ids]
        if self.settings.is_greedy and num_log_probs is None and not (self._biased.size or penalised.size):
            # Nothing is changed, so nothing is copied: a copy takes longer than to find the best.
            return Choice(token=self._place(logits, position=position, branch=branch))
        self._weigher.scores[:] = logits
        scores = self._changed(self._weigher.scores, ids=None, penalised=penalised)
        token = self._place(scores, position=position, branch=branch)
        if num_log_probs is None:
            return Choice(token=token)
        return self._with_log_probs(logits, token, count=num_log_probs)

    def _penalised(self, recent: Sequence[int]) -> Integers:
        window = self.settings.repetition_window
        if self._penalty == _ONE or not window:
            return _NO_IDS
        unlike = {token for token in recent[-window:] if token < self.num_ids} - self._spared
        return np.array(sorted(unlike), dtype=np.int64)

    def _candidates(self, head: Head, penalised: Integers) -> Integers | None:
        """The ids that can be chosen, and perhaps some more. What a change lowers is bound by its logit."""
        changed = _union(self._biased, penalised)
        count = 1 if self.settings.is_greedy else self.settings.top_k or 1
        ids = head.candidates(changed, count=count, below_best=self._below_best)
        raised = self._biased[self._bias > 0]
        if self._penalty < _ONE:
            raised = _union(raised, penalised)
        return None if ids is None else _union(ids, raised)

    def _changed(self, scores: Floats, *, ids: Integers | None, penalised: Integers) -> Floats:
        """The logits of these ids, or of all, with bias and penalty, in place."""
        if self._biased.size:
            places, there = (self._biased, slice(None)) if ids is None else places_in(ids, self._biased)
            scores[places] += self._bias[there]
        if penalised.size:
            places = penalised if ids is None else places_in(ids, penalised)[0]
            found = scores[places]
            scores[places] = np.where(found > 0, np.divide(found, self._penalty), found * self._penalty)
        return scores

    def _place(self, scores: Floats, *, position: int, branch: int) -> int:
        """The place of the score that is chosen."""
        if self.settings.is_greedy:
            place = int(scores.argmax())  # that of a NaN, where there is one
            _check_best(scores[place])
            return place
        best = scores.max()
        _check_best(best)
        if not self.settings.top_k:
            return self._drawn(scores, best=best, position=position, branch=branch)
        places = best_places(scores, self.settings.top_k)
        return int(places[self._drawn(scores[places], best=best, position=position, branch=branch)])

    def _drawn(self, scores: Floats, *, best: np.float32, position: int, branch: int) -> int:
        """The place of one that is drawn, after top-p and min-p."""
        if scores is not self._weigher.scores:
            self._weigher.scores[: scores.size] = scores
        weights, sums = self._weigher.weigh(scores.size, best=best, temperature=self._temperature)
        total, places = int(sums.sum()), None
        if self.settings.top_p < 1:
            places = self._nucleus(scores, weights, total=total)
            places = places[weights[places] >= self._least_weight]
        elif self._least_weight:
            places = np.flatnonzero(weights >= self._least_weight)
        if places is None:
            target = random_below(total, seed=self.settings.seed, position=position, branch=branch)
            return _place_by_chunks(weights, sums, target)
        ends = np.cumsum(weights[places])
        target = random_below(int(ends[-1]), seed=self.settings.seed, position=position, branch=branch)
        return int(places[np.searchsorted(ends, target, side="right")])

    def _nucleus(self, scores: Floats, weights: Integers, *, total: int) -> Integers:
        """The shortest run of ranks that holds the share top-p, one at least; rising places."""
        numerator, denominator = self._top_p
        share = max(1, -(-numerator * total // denominator))
        # All weights up to this one, taken together, do not reach into the share: so ranks below the lowest
        # score of a heavier one need no order.
        light = (total - share) // weights.size
        front = np.flatnonzero(scores >= scores[weights > light].min())
        by_rank = front[ranked(scores[front])]
        before = np.cumsum(weights[by_rank]) - weights[by_rank]
        is_kept = np.zeros(scores.size, dtype=np.bool_)
        is_kept[by_rank[: int(np.searchsorted(before, share, side="left"))]] = True
        return np.flatnonzero(is_kept)

    def _with_log_probs(self, logits: Floats, token: int, *, count: int) -> Choice:
        top = best_places(logits, count) if count else _NO_IDS
        top = top[ranked(logits[top])]
        best = logits.max()
        self._weigher.scores[:] = logits
        _, sums = self._weigher.weigh(logits.size, best=best, temperature=_ONE)
        total = np.float32(int(sums.sum())) * np.float32(2.0**-WEIGHT_BITS)
        *of_top, of_token = (logits[np.append(top, token)] - best - log(np.array([total]))).tolist()
        return Choice(token=token, log_prob=of_token, best=tuple(zip(top.tolist(), of_top, strict=True)))


def _union(some: Integers, others: Integers) -> Integers:
    """Rising ids that are in either; both rise."""
    if some.size and others.size:
        return np.union1d(some, others)
    return some if some.size else others


def _below_best(settings: SamplingSettings) -> float:
    """How far below the best a score can lie and still count by min-p alone; rather too much than too little.

    It chooses who is looked at; who is looked at is judged by his weight. A weight of 1 stands for more than
    2^-39; the margin is a thousand times what our exponential and logarithm can be wrong by.
    """
    if settings.is_greedy or settings.top_k or not settings.min_p:
        return 0.0
    share = np.array([max(settings.min_p, 2.0 ** -(WEIGHT_BITS + 1))], dtype=np.float32)
    return settings.temperature * (1e-3 - float(log(share)[0]))


def _check_best(best: np.float32) -> None:
    if np.isfinite(best):
        return
    if best == np.float32(FORBIDDEN):
        raise UsageError("every token is forbidden, so none can be chosen", hint="Forbid fewer tokens.")
    raise ModelError(
        f"the model's best logit is {best}, which is no number to choose by",
        hint="Its weights are damaged or its training came apart: `chimera inspect --verify` reads them.",
    )


def _place_by_chunks(weights: Integers, sums: Integers, target: int) -> int:
    """The place whose stretch of the weights, laid end to end, holds the target; by sums of chunks first."""
    ends = np.cumsum(sums)
    chunk = int(np.searchsorted(ends, target, side="right"))
    left = target - int(ends[chunk]) + int(sums[chunk])
    start = chunk * CHUNK
    return start + int(np.searchsorted(np.cumsum(weights[start : start + CHUNK]), left, side="right"))
