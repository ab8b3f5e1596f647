"""Stop strings are found over any borders, and nothing of them or after them gets out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UsageError
from runtime.stops import StopFilter

TEXT = st.text("ab\n", max_size=30)


def let_through(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    stopper = StopFilter(stops)
    text = "".join(stopper.feed(piece) for piece in pieces)
    return text + stopper.flush(), stopper.found


def first_complete(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By the definition: the shortest beginning of the text that ends with a stop string."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(pieces=st.lists(TEXT, max_size=8), stops=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4))
def test_it_ends_where_the_first_is_complete_whatever_the_pieces(pieces: list[str], stops: list[str]):
    assert let_through(pieces, stops) == first_complete("".join(pieces), stops)


@given(text=TEXT, stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_more_is_held_back_than_could_become_a_stop_string(text: str, stops: list[str]):
    stopper = StopFilter(stops)
    out = "".join(stopper.feed(letter) for letter in text)
    if stopper.found is None:
        held = text.removeprefix(out)
        assert out + held == text
        assert not held or any(stop.startswith(held) for stop in stops)


def test_it_goes_over_the_borders_of_pieces():
    assert let_through(["one\n", "Us", "er", ": two"], ["\nUser:"]) == ("one", "\nUser:")
    assert let_through(["one\nUs", "eful"], ["\nUser:"]) == ("one\nUseful", None)


def test_the_first_to_be_complete_ends_the_text():
    assert let_through(["xabcd"], ["abcd", "bc"]) == ("xa", "bc")
    assert let_through(["xabc"], ["abc", "bc"]) == ("x", "abc")


def test_after_a_stop_string_nothing_comes():
    stopper = StopFilter(["."])
    assert stopper.feed("a.b") == "a"
    assert stopper.feed("c.d") == ""
    assert stopper.flush() == ""


@pytest.mark.parametrize("stops", [[""], ["x" * 1001], ["x"] * 65])
def test_bad_stop_strings_are_refused(stops: list[str]):
    with pytest.raises(UsageError, match="stop string"):
        StopFilter(stops)
