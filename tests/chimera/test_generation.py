"""The slow sampler."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.generation import choose, generate, penalise_repeats
from chimera.model import ChimeraForCausalLM, build
from configs.errors import UsageError
from configs.load import preset


@pytest.fixture(scope="module")
def model() -> ChimeraForCausalLM:
    torch.manual_seed(6)
    return build(preset("micro"))


def draw(logits: list[float], **choices: float) -> set[int]:
    generator = torch.Generator().manual_seed(0)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **choices}
    return {choose(torch.tensor(logits), generator=generator, **settings) for _ in range(400)}  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model: ChimeraForCausalLM):
    first, again, other = (
        list(generate(model, [5, 6], max_new_tokens=12, temperature=1.0, seed=s)) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert model.training


def test_greedy_text_is_the_best_word_each_time(model: ChimeraForCausalLM):
    written = list(generate(model, [5, 6], max_new_tokens=6))
    ids = [5, 6]
    model.eval()
    for word in written:
        with torch.no_grad():
            best = int(model.logits(model(torch.tensor([ids])).hidden_BTD[:, -1]).argmax())
        # A text fed whole rounds differently from one fed token by token: near ties may fall either way.
        scores = model.logits(model(torch.tensor([ids])).hidden_BTD[:, -1])[0]
        assert word == best or scores[best] - scores[word] < 0.05
        ids.append(word)


def test_the_text_ends_at_its_end(model: ChimeraForCausalLM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chimera.generation.choose", lambda *a, **k: model.config.token_ids[0])
    assert list(generate(model, [5], max_new_tokens=9)) == []


def test_temperature_zero_takes_the_best_and_the_lower_id_of_equals():
    assert draw([1.0, 3.0, 3.0, 2.0], temperature=0.0) == {1}


def test_top_k_and_top_p_leave_the_tail_out():
    assert draw([1.0, 3.0, 2.9, 2.0], top_k=2) == {1, 2}
    assert draw([0.0, 9.0, 0.0], top_p=0.5) == {1}
    assert draw([0.0, 0.0, 0.0, 0.0], top_p=0.51) == {0, 1, 2}


@given(penalty=st.floats(1.0, 3.0), scores=st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=8))
def test_a_repeated_word_never_gains(penalty: float, scores: list[float]):
    logits = torch.tensor(scores)
    before = logits.clone()
    penalise_repeats(logits, [0, 2, 2], penalty=penalty)
    assert (logits <= before).all()
    assert torch.equal(logits[1], before[1])


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
)
def test_unfit_choices_are_refused(model: ChimeraForCausalLM, choices: dict[str, float], words: str):
    with pytest.raises(UsageError, match=words):
        list(generate(model, [1], max_new_tokens=1, **choices))  # type: ignore[arg-type]


def test_an_empty_prompt_is_refused(model: ChimeraForCausalLM):
    with pytest.raises(UsageError, match="empty prompt"):
        list(generate(model, [], max_new_tokens=1))
