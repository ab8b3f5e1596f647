"""Any words on the command line give an answer or one message, with an exit code that the docs name."""

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cli.main import VERBS, load_verb, main
from tests.runtime.cli.talking import make_model

NUMBERS = "0 -0 1 -1 2 0.5 1e400 1e-400 nan inf -inf 0x10 1_0 1. .5 1,2 ٣ 1K -1M 1e9 9999999999999999999999G"
NAMES = "- -- off 1=off 1=1 9=nan -1=0 = fast [red] [/] %s {} é / . .. ~ /dev/null /dev/full /proc/self/mem"
STRANGE = ("", " ", "a\x1b[31mb", "a\nb", "\udcff", "\x85", "\u202e", "x" * 300, "x" * 5000)
LARGE = (str(2**31), str(2**64), "9" * 40, "9" * 400, "9" * 5000, "-" + "9" * 400, f"{2**70}=1")
WORDS = (*NUMBERS.split(), *NAMES.split(), *STRANGE, *LARGE)
ENDS = {0, 1, 2, 3, 4}


def options_of(verb: str) -> list[tuple[str, bool]]:
    """The options of a verb, and whether a word follows."""
    parser = argparse.ArgumentParser(add_help=False)
    load_verb(verb).add_arguments(parser)
    return [
        (action.option_strings[-1], action.nargs != 0) for action in parser._actions if action.option_strings
    ]


def spoken(words: Sequence[str]) -> tuple[int, str]:
    """The exit code, and what is said beside the answer."""
    out, err = io.StringIO(), io.StringIO()
    stdin = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"Hello"))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    finally:
        sys.stdin = stdin
    return code, err.getvalue()


def check(words: Sequence[str]) -> None:
    try:
        code, said = spoken(words)
    except SystemExit as left:  # --help
        code, said = int(left.code or 0), ""
    assert code in ENDS
    assert "fault in chimera" not in said
    assert "Traceback" not in said
    assert all(line.isprintable() for line in said.split("\n"))
    assert len(said) < 20_000
    if code:
        assert said.count("chimera: error: ") == 1 or '{"error": ' in said


@st.composite
def lines(draw: st.DrawFn, verb: str) -> list[str]:
    words: list[str] = []
    options = options_of(verb)
    for option, has_word in draw(st.lists(st.sampled_from(options), max_size=3)) if options else ():
        words.append(option)
        if has_word:
            words.append(draw(st.sampled_from(WORDS) | st.text(max_size=5)))
    return words


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


# Whoever changes a verb may raise this: the defects that were found came within the first thousand.
BOUNDED = settings(max_examples=10, deadline=None, derandomize=True)


@pytest.mark.parametrize("verb", ["run", "chat"])
def test_any_words_to_a_model(verb: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    @BOUNDED
    @given(words=lines(verb), prompt=st.sampled_from(["Hi", *WORDS]))
    def holds(words: list[str], prompt: str) -> None:
        begin = [verb, "-m", str(model), "-n", "1"]
        check([*begin, *words, *([f" {prompt}"] if verb == "run" else [])])

    holds()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("run", "chat", "doctor")])
def test_any_words_to_a_verb(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    @BOUNDED
    @given(words=lines(verb), model=st.sampled_from(WORDS))
    def holds(words: list[str], model: str) -> None:
        check([verb, model, *words])

    holds()
