"""Generated tasks: right answers pass, wrong ones do not, a seed gives the same ones; recall in ids."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.data.generated import CHECK_OF, KINDS, Task, main, needle, task, tasks
from chimera.data.recall import associative_recall
from configs.errors import UsageError
from configs.text.records import PromptRecord, read_records


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**9), st.integers(0, 99))
def test_the_answer_is_right_and_the_rejected_one_is_not(kind: str, number: int, seed: int):
    made = task(number, seed=seed, kind=kind)
    assert made.kind == kind
    assert made.prompt
    assert made.check(made.answer)
    assert made.check(f" {made.answer}\n")
    assert not made.check(made.rejected)
    assert not made.check("")


def test_all_kinds_come_in_turn_and_the_same_for_a_seed():
    some = list(tasks(3 * len(KINDS), seed=1))
    assert [made.kind for made in some] == 3 * list(KINDS)
    assert some == list(tasks(3 * len(KINDS), seed=1))
    assert some[:5] == list(tasks(5, seed=1))
    assert some != list(tasks(3 * len(KINDS), seed=2))
    assert {made.kind for made in tasks(4, seed=1, kinds=["sum", "sort"])} == {"sum", "sort"}


def test_answers_are_what_another_way_of_reckoning_gives():
    for made in tasks(200, seed=3, kinds=["sum", "product", "sort", "reverse", "count", "python", "larger"]):
        words = made.prompt.replace("?", "").split()
        numbers = [int(word) for word in words if word.isdecimal()]
        match made.kind:
            case "sum":
                is_minus = "minus" in words or "-" in words
                assert int(made.answer) == numbers[0] + (-numbers[1] if is_minus else numbers[1])
            case "product":
                assert int(made.answer) == numbers[0] * numbers[1]
            case "larger":
                assert int(made.answer) == max(int(word.strip(",")) for word in words if word[0].isdecimal())
            case "reverse":
                assert made.answer.split() == words[-1 : words.index("order:") : -1]
            case "count":
                asked = words[words.index("does") + 1].strip('"')
                assert int(made.answer) == words[words.index("in:") :].count(asked)
            case "python":
                assert int(made.answer) == eval(made.prompt.split("print(", 1)[1].rsplit(")", 1)[0])
            case _:
                items = made.prompt.partition(": ")[2].split(", ")
                key = int if items[0].isdecimal() else str
                assert made.answer.split(", ") == sorted(items, key=key)


@pytest.mark.parametrize(
    ("kind", "answer", "reply", "right"),
    [
        ("sum", "12", "It is 12.", True),
        ("sum", "12", "12, or 13", False),
        ("sum", "-3", "-3", True),
        ("sum", "12", "112", False),
        ("sort", "1, 2, 3", "1 2 3", True),
        ("sort", "1, 2, 3", "1, 3, 2", False),
        ("copy", "a b", '"a b".', True),
        ("copy", "a b", "a  b", True),
        ("copy", "a b", "ab", False),
        ("json", '{"a": 1, "b": "x"}', '```json\n{"b":"x","a":1}\n```', True),
        ("json", '{"a": 1}', '{"a": 2}', False),
        ("json", '{"a": 1}', '{"a": 1', False),
        ("json", '{"a": 1}', "[" * 100_000, False),
    ],
)
def test_replies_are_checked_as_their_kind_has_it(kind: str, answer: str, reply: str, right: bool):
    assert Task(kind=kind, prompt="", answer=answer, rejected="").check(reply) is right


def test_every_special_check_is_of_a_kind():
    assert set(CHECK_OF) <= set(KINDS)


@pytest.mark.parametrize(("depth", "before"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_a_needle_lies_at_its_depth(depth: float, before: int):
    made = needle(random.Random(1), haystack=[f"Line {n}." for n in range(8)], depth=depth)
    text = made.prompt.split("\n")[0]
    assert text.partition("The secret word")[0].count("Line") == before
    assert f"is {made.answer}." in text
    assert made.check(made.answer)


@pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan")])
def test_no_needle_outside_its_text(depth: float):
    with pytest.raises(UsageError, match="depth"):
        needle(random.Random(1), haystack=["A."], depth=depth)


def test_unknown_kinds_and_counts_are_refused():
    with pytest.raises(UsageError, match="no kind of task 'poem'"):
        list(tasks(1, seed=0, kinds=["poem"]))
    with pytest.raises(UsageError, match="at least 1 kind"):
        list(tasks(1, seed=0, kinds=[]))


def test_the_script_writes_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "tasks.jsonl"
    monkeypatch.setattr(sys, "argv", ["generated", str(path), "--count", "40", "--seed", "7"])
    main()
    made = list(tasks(40, seed=7))
    for record, one, line in zip(read_records(path), made, path.read_text().splitlines(), strict=True):
        assert isinstance(record, PromptRecord)
        assert (record.prompt, record.completion, record.kind) == (one.prompt, one.answer, one.kind)
        assert not record.stands_alone
        assert json.loads(line)["rejected"] == one.rejected


@given(st.integers(1, 16), st.integers(0, 40), st.integers(0, 5))
def test_every_key_is_asked_for_once_and_its_value_is_the_label(pairs: int, more: int, seed: int):
    ids, labels = associative_recall(3, num_pairs=pairs, length=4 * pairs + more, vocab_size=64, seed=seed)
    for row, wanted in zip(ids, labels, strict=True):
        value_of = dict(zip(row[0 : 2 * pairs : 2].tolist(), row[1 : 2 * pairs : 2].tolist(), strict=True))
        assert len(value_of) == pairs
        (asked,) = np.nonzero(wanted != -100)
        assert sorted(row[asked].tolist()) == sorted(value_of)
        assert [value_of[key] for key in row[asked].tolist()] == wanted[asked].tolist()
        assert row[asked + 1].tolist() == wanted[asked].tolist()
        assert (asked >= 2 * pairs).all()
        assert max(value_of) < 32 <= min(value_of.values())


def test_recall_is_the_same_for_a_seed_and_asks_soon_rather_than_late():
    made = [associative_recall(200, num_pairs=4, length=128, vocab_size=64, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(made[0][0], made[1][0])
    assert not np.array_equal(made[0][0], made[2][0])
    places = np.nonzero(made[0][1] != -100)[1]
    assert np.median(places) < 8 + 60 / 2


@pytest.mark.parametrize("wrong", [{"num_pairs": 0}, {"length": 15}, {"vocab_size": 8}, {"rows": 0}])
def test_recall_that_does_not_fit_is_refused(wrong: dict[str, int]):
    options = {"rows": 1, "num_pairs": 4, "length": 16, "vocab_size": 64, **wrong}
    with pytest.raises(UsageError, match="4 ids for each pair"):
        associative_recall(options.pop("rows"), **options, seed=0)
