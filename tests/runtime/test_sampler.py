"""The sampler: the written-out reference is met bit for bit, and each setting does what it says."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import ModelError, UsageError
from configs.schema.serving import Generation
from runtime import sampler_reference
from runtime.sampler import Choice, Sampler
from runtime.sampling import FORBIDDEN, SamplingSettings, parsed_biases, settings_of

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Whole:
    """A head that knows all logits and screens nothing."""

    def __init__(self, logits: Floats) -> None:
        self._logits = logits

    def logits(self) -> Floats:
        return self._logits

    def candidates(self, changed: Integers, *, count: int, below_best: float) -> Integers | None:
        return None

    def selected(self, ids: Integers) -> Floats:
        return self._logits[ids]


class Screened(Whole):
    """A head that gives no more than it must, and lets nothing else be seen."""

    def logits(self) -> Floats:
        raise AssertionError("a screened choice must not ask for all logits")

    def candidates(self, changed: Integers, *, count: int, below_best: float) -> Integers | None:
        others = np.delete(self._logits, changed)
        if others.size < count:
            return np.arange(self._logits.size)
        lowest = np.sort(others)[others.size - count] - below_best
        return np.flatnonzero(self._logits >= lowest)


def chosen(logits: Floats, asked: SamplingSettings, **given: Any) -> Choice:
    whole = {"recent": (), "position": 0} | given
    return Sampler(asked, num_ids=logits.size).choose(Whole(logits), **whole)


def array(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float32)


# Few different values, so that there are ties, and some that are far from the others.
LOGITS = st.lists(
    st.one_of(
        st.integers(-4, 4).map(float),
        st.floats(-30, 30, width=32),
        st.sampled_from([0.0, -0.0, -200.0, 1e-40, FORBIDDEN]),
    ),
    min_size=1,
    max_size=60,
).filter(lambda numbers: max(numbers) > FORBIDDEN)
SETTINGS = st.builds(
    dict[str, Any],
    temperature=st.sampled_from([0.0, 1e-6, 0.3, 0.7, 1.0, 2.5, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 59, 1000]),
    top_p=st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.92, 0.9999999]),
    min_p=st.sampled_from([0.0, 0.0, 1e-30, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.08, 100.0]),
    repetition_window=st.sampled_from([0, 1, 3, 256]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=400)
@given(numbers=LOGITS, asked=SETTINGS, data=st.data())
def test_the_fast_sampler_chooses_what_the_reference_does(
    numbers: list[float], asked: dict[str, Any], data: st.DataObject
):
    logits = array(*numbers)
    ids = st.integers(0, logits.size - 1)
    bias = data.draw(st.dictionaries(ids, st.sampled_from([-3.0, 0.0, 0.1, 8.0, FORBIDDEN]), max_size=5))
    recent = data.draw(st.lists(ids, max_size=8))
    spared = frozenset(data.draw(st.lists(ids, max_size=2)))
    forbidden = frozenset(data.draw(st.lists(ids, max_size=3)))
    made = SamplingSettings(**asked, logit_bias=bias)
    where = {"recent": recent, "position": data.draw(st.integers(0, 2**40)), "branch": data.draw(ids)}
    scores = sampler_reference.changed_scores(logits, made, recent=recent, forbidden=forbidden, spared=spared)
    sampler = Sampler(made, num_ids=logits.size, forbidden=forbidden, spared=spared)
    if scores.max() == FORBIDDEN:
        with pytest.raises(UsageError, match="every token is forbidden"):
            sampler.choose(Whole(logits), **where)
        return
    right = sampler_reference.choose(logits, made, **where, forbidden=forbidden, spared=spared)
    assert sampler.choose(Whole(logits), **where).token == right
    assert sampler.choose(Whole(logits), **where, num_log_probs=0).token == right
    head = Whole(logits) if made.needs_all else Screened(logits)
    assert sampler.choose(head, **where).token == right


@settings(max_examples=20, deadline=None)
@given(asked=SETTINGS, seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 0.01, 1.0, 6.0]))
def test_so_it_does_over_several_chunks(asked: dict[str, Any], seed: int, spread: float):
    logits = (spread * np.random.default_rng(seed).standard_normal(9001)).astype(np.float32)
    made = SamplingSettings(**asked)
    recent = [5, 4095, 4096, 9000]
    right = sampler_reference.choose(logits, made, recent=recent, position=seed)
    sampler = Sampler(made, num_ids=9001)
    assert sampler.choose(Whole(logits), recent=recent, position=seed).token == right
    if not made.needs_all:
        assert sampler.choose(Screened(logits), recent=recent, position=seed).token == right


def test_greedy_takes_the_lowest_id_of_the_best():
    logits = array(1, 3, -0.0, 3, 0.0)
    assert chosen(logits, SamplingSettings(temperature=0)).token == 1
    assert chosen(array(-0.0, 0.0), SamplingSettings(temperature=0)).token == 0


def test_one_sampler_forgets_what_it_chose_before():
    sampler = Sampler(SamplingSettings(temperature=0.8, repetition_penalty=2.0), num_ids=3)
    logits = array(1, 1.1, 1.2)
    first = [sampler.choose(Whole(logits), recent=[2], position=n).token for n in range(50)]
    sampler.choose(Whole(array(9, -9, FORBIDDEN)), recent=[], position=3)
    assert [sampler.choose(Whole(logits), recent=[2], position=n).token for n in range(50)] == first
    assert logits.tolist() == array(1, 1.1, 1.2).tolist(), "the logits are only read"


def test_draws_follow_the_probabilities():
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1])).astype(np.float32)
    sampler = Sampler(SamplingSettings(seed=11), num_ids=4)
    counts = np.bincount(
        [sampler.choose(Whole(logits), recent=(), position=n).token for n in range(4000)], minlength=4
    )
    expected = np.array([2000, 1000, 600, 400])
    # Three degrees of freedom: above 16.3 there is a chance of one in a thousand, and the seed is fixed.
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3


def drawn_set(logits: Floats, asked: SamplingSettings, **given: Any) -> set[int]:
    sampler = Sampler(asked, num_ids=logits.size)
    whole = {"recent": ()} | given
    return {sampler.choose(Whole(logits), position=n, **whole).token for n in range(400)}


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (SamplingSettings(), {0, 1, 2, 3}),
        (SamplingSettings(top_k=2), {0, 1}),
        (SamplingSettings(top_p=0.5), {0}),
        (SamplingSettings(top_p=0.51), {0, 1}),
        (SamplingSettings(top_p=0.0), {0}),
        (SamplingSettings(min_p=0.25), {0, 1, 2}),
        (SamplingSettings(min_p=1.0), {0}),
        # Of the three best, 0.5 / 0.9 is above 0.55; of all, the best alone has too little.
        (SamplingSettings(top_k=3, top_p=0.55), {0}),
        (SamplingSettings(top_p=0.55), {0, 1}),
        # A temperature of 2 takes the square root of each share, so top-p keeps more.
        (SamplingSettings(top_p=0.55, temperature=2.0), {0, 1}),
        (SamplingSettings(top_p=0.65, temperature=2.0), {0, 1, 2}),
        (SamplingSettings(top_p=0.65, temperature=1.0), {0, 1}),
    ],
)
def test_what_a_cut_keeps(asked: SamplingSettings, kept: set[int]):
    # Shares 8/16, 4/16, 2.4/16 and 1.6/16, the first a little above a half.
    logits = np.log(np.array([0.5001, 0.25, 0.15, 0.0999])).astype(np.float32)
    assert drawn_set(logits, asked) == kept


def test_a_bias_is_added_and_minus_infinity_forbids():
    logits = array(2, 1, 0, 0)
    assert chosen(logits, SamplingSettings(temperature=0, logit_bias={1: 1.5})).token == 1
    assert 0 not in drawn_set(logits, SamplingSettings(logit_bias={0: FORBIDDEN}))


def test_a_repetition_is_punished_within_the_window_alone():
    logits = array(2.0, 1.9, -0.1, -0.2)
    asked = SamplingSettings(temperature=0, repetition_penalty=1.5, repetition_window=2)
    assert chosen(logits, asked, recent=[0]).token == 1
    assert chosen(logits, asked, recent=[0, 3, 3]).token == 0
    below = array(-1.0, -1.2)
    assert chosen(below, asked, recent=[0]).token == 1
    assert (
        Sampler(asked, num_ids=4, spared=frozenset({0})).choose(Whole(logits), recent=[0], position=0).token
        == 0
    )


def test_ids_that_the_tokenizer_lacks_are_never_given():
    logits = array(0, 0, 9, 9)
    sampler = Sampler(SamplingSettings(), num_ids=2)
    assert {sampler.choose(Whole(logits), recent=[3], position=n).token for n in range(50)} == {0, 1}


def test_another_branch_or_seed_tells_another_text():
    logits = np.zeros(1000, dtype=np.float32)

    def text(seed: int, branch: int) -> list[int]:
        sampler = Sampler(SamplingSettings(seed=seed), num_ids=1000)
        return [sampler.choose(Whole(logits), recent=(), position=n, branch=branch).token for n in range(8)]

    assert text(1, 0) == text(1, 0)
    assert text(1, 0) != text(1, 1)
    assert text(1, 0) != text(2, 0)


@given(numbers=LOGITS, count=st.integers(0, 70))
def test_log_probabilities_are_those_of_the_model(numbers: list[float], count: int):
    logits = array(*numbers)
    asked = SamplingSettings(temperature=0.1, top_k=2, repetition_penalty=3.0)
    choice = chosen(logits, asked, recent=list(range(logits.size)), num_log_probs=count)
    right = sampler_reference.log_probabilities(logits)
    assert choice.log_prob == float(right[choice.token])
    ranks = sorted(range(logits.size), key=lambda token: (-logits[token], token))[:count]
    assert list(choice.best) == [(token, float(right[token])) for token in ranks]


def test_log_probabilities_are_near_the_true_ones():
    logits = (4 * np.random.default_rng(3).standard_normal(50_000)).astype(np.float32)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    found = sampler_reference.log_probabilities(logits)
    # Two subtractions and a logarithm of numbers below 64, each right to some units of float32.
    assert np.abs(found - exact).max() < 64 * 4 * 2.0**-24


BAD_NUMBERS: Sequence[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature -0.1; allowed: 0"),
    ({"temperature": float("nan")}, "temperature nan"),
    ({"temperature": 1e-9}, "temperature 1e-09"),
    ({"temperature": 101.0}, "temperature 101"),
    ({"top_k": -1}, "top-k -1"),
    ({"top_p": 1.1}, "top-p 1.1"),
    ({"top_p": float("nan")}, "top-p nan"),
    ({"min_p": -0.5}, "min-p -0.5"),
    ({"repetition_penalty": 0.0}, "repetition penalty 0"),
    ({"repetition_penalty": float("inf")}, "repetition penalty inf"),
    ({"repetition_window": -1}, "repetition window -1"),
    ({"seed": -1}, "seed -1"),
    ({"seed": 2**64}, "seed 18446744073709551616"),
    ({"logit_bias": {3: float("nan")}}, "logit bias nan on token 3"),
    ({"logit_bias": {3: float("inf")}}, "logit bias inf on token 3"),
]


@pytest.mark.parametrize(("asked", "message"), BAD_NUMBERS)
def test_a_bad_number_is_refused(asked: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=f"^{message}"):
        SamplingSettings(**asked)


def test_a_bias_on_a_token_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"token 4; the vocabulary has 0 … 3"):
        Sampler(SamplingSettings(logit_bias={4: 1.0}), num_ids=4)


def test_too_many_log_probabilities_are_refused():
    with pytest.raises(UsageError, match="0 … 100"):
        chosen(array(1, 2), SamplingSettings(), num_log_probs=101)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_the_models_fault(number: float):
    with pytest.raises(ModelError, match=f"best logit is {number}"):
        chosen(array(1, number, 2), SamplingSettings(top_k=2))


def test_biases_are_written_as_id_and_value():
    assert dict(parsed_biases(["3=-1.5", "7=off"])) == {3: -1.5, 7: FORBIDDEN}
    for word in ("3", "x=1", "3=much", "=2"):
        with pytest.raises(UsageError, match=f"logit bias '{word}'"):
            parsed_biases([word])


def test_a_config_says_how_to_draw():
    asked = settings_of(Generation(temperature=0.6, top_p=0.8, repetition_penalty=1.2))
    assert (asked.temperature, asked.top_p, asked.repetition_penalty) == (0.6, 0.8, 1.2)
    assert settings_of(Generation(do_sample=False)).is_greedy
    assert settings_of(Generation(temperature=0.0)).is_greedy
