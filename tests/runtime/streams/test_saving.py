"""Talks on the command line that are saved, loaded, forked, shown, compared and removed."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.cli import main as command
from tests.runtime.cli.talking import FOREVER, make_model

Run = Callable[..., tuple[int, str, str]]
BRIEF = ["-n", "8", *FOREVER[2:]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def chimera(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A verb in this process: exit code, stdout, stderr. What is said to it comes from a pipe."""
    monkeypatch.chdir(tmp_path)

    def run(verb: str, *arguments: str, said: str = "") -> tuple[int, str, str]:
        stdin = SimpleNamespace(buffer=io.BytesIO(said.encode()), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)
        own = ["-m", str(model), *BRIEF] if verb in ("run", "chat") else []
        code = command.main([verb, *own, *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_a_loaded_talk_goes_on_as_the_whole_one_did(chimera: Run) -> None:
    _, whole, _ = chimera("chat", "--seed", "3", said="Hello\nWhy?\nAnd then?\n")
    code, first, err = chimera("run", "--seed", "3", "--save", "a", "Hello")
    assert (code, err) == (0, "")
    _, second, _ = chimera("run", "--load", "a", "--save", "a", "Why?")
    _, third, _ = chimera("chat", "--load", "a.state", said="And then?\n")
    assert first + second + third == whole
    _, again, _ = chimera("run", "--load", "a", "--seed", "4", "And then?")
    assert again != third, "what is asked for counts before what was saved"


def test_a_fork_draws_otherwise_and_leaves_the_file(chimera: Run, tmp_path: Path) -> None:
    chimera("run", "--seed", "3", "--save", "a", "Hello")
    before = (tmp_path / "a.state").read_bytes()
    _, same, _ = chimera("run", "--load", "a", "Why?")
    forks = {chimera("run", "--fork", "a", "Why?")[1] for _ in range(2)}
    assert same not in forks
    assert len(forks) == 2
    assert (tmp_path / "a.state").read_bytes() == before
    assert chimera("run", "--fork", "a", "--seed", "3", "Why?")[1] == same


def test_a_text_that_was_begun_is_gone_on_with(chimera: Run) -> None:
    _, whole, _ = chimera("run", "--seed", "3", "--raw", "Once upon", "-n", "12")
    _, first, _ = chimera("run", "--seed", "3", "--raw", "Once upon", "-n", "8", "--save", "a")
    _, rest, _ = chimera("run", "--raw", "--load", "a", "", "-n", "4")
    assert first.removesuffix("\n") + rest == whole


def test_branches_wait_where_they_were_left(chimera: Run) -> None:
    said = "Hello\n/fork b\nWhy?\n/tree\n/tree talk\nWhy?\n/tree b\nAnd?\n/save b\n/fork b\n/tree c\n"
    code, out, err = chimera("chat", "--seed", "3", said=said)
    assert code == 0
    answers = [line for line in out.split("\n") if line]
    _, straight, _ = chimera("chat", "--seed", "3", said="Hello\nWhy?\nAnd?\n")
    assert out.count(straight.split("\n")[1]) >= 2, "both branches answer the same to the same"
    assert len(answers) >= 4
    lines = [line for line in err.split("\n") if "tokens" in line]
    assert lines[0].startswith("  talk: ")
    assert lines[1].startswith("*   b: ")
    assert "there is a branch 'b' already" in err
    assert "there is no branch 'c'" in err
    assert json.loads(chimera("state", "show", "b.state", "--json")[1])["messages"] == 3


def test_a_clock_ends_an_answer(chimera: Run) -> None:
    _, out, _ = chimera("run", "-n", "1000000", "--max-seconds", "0.01", "--json", "Hello")
    assert json.loads(out)["finish"] == "time"
    assert chimera("run", "--max-seconds", "0", "Hello")[0] == 2


def test_load_in_a_talk_and_its_refusals(chimera: Run, model: Path, tmp_path: Path) -> None:
    chimera("run", "--seed", "3", "--save", "a", "Hello")
    _, right, _ = chimera("run", "--load", "a", "Why?")
    (tmp_path / "b.state").write_bytes(b"x" * 100)
    code, out, err = chimera(
        "chat", said="/load b\n/load none\n/save b\n/save\n/save /no/where/x\n/load a\nWhy?\n"
    )
    assert (code, out) == (0, right)
    for message in (
        "b.state is no saved state",
        "there is no file none.state",
        "b.state is there already and is no saved state",
        "/save needs the name of a file",
        "there is no folder /no/where",
    ):
        assert message in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--load", "a", "--fork", "a"], 2, "Give one of them"),
        (["--load", "a", "--system", "Be"], 2, "--system begins a talk"),
        (["--load", "none"], 3, "there is no file none.state"),
        (["--save", "."], 2, "is a folder"),
        (["--save", "a\0b"], 2, "no file's name"),
        (["--save", "none/x"], 2, "there is no folder none"),
        (["--save", "c.txt"], 2, "c.txt is there already"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    chimera: Run, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    chimera("run", "--save", "a", "-n", "1", "Hello")
    (tmp_path / "c.txt").write_text("mine")
    found, out, err = chimera("run", *arguments, "-m", "nowhere", "Hello")
    assert (found, out) == (code, "")
    assert message in err


def test_saved_talks_are_listed_shown_compared_and_removed(chimera: Run, tmp_path: Path, model: Path) -> None:
    chimera("run", "--seed", "3", "--save", "a", "Hello\x1b[2J")
    chimera("run", "--load", "a", "--save", "b", "Why?")
    chimera("run", "--fork", "a", "--seed", "9", "--save", "c", "Why?")
    code, out, _ = chimera("state", "ls")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["file", "a.state", "b.state", "c.state"]
    assert "\x1b" not in out
    assert [entry["path"] for entry in json.loads(chimera("state", "ls", ".", "--json")[1])] == [
        "a.state",
        "b.state",
        "c.state",
    ]
    _, shown, _ = chimera("state", "show", "b.state")
    assert "> Why?" in shown
    assert "micro" in shown
    assert "\x1b" not in shown
    found = json.loads(chimera("state", "diff", "b.state", "c.state", "-m", str(model), "--json")[1])
    first = json.loads(chimera("state", "show", "a.state", "--json")[1])
    assert found["common"] >= first["position"]
    assert found["unlike"] == ["draws"]
    assert len(found["texts"]) == 2
    _, told, _ = chimera("state", "diff", "b.state", "c.state", "-m", str(model))
    assert f"{found['common']} tokens in common" in told
    (tmp_path / "d.state").write_bytes((tmp_path / "a.state").read_bytes()[:-9])
    code, out, _ = chimera("state", "ls")
    assert code == 3
    assert "d.state is damaged" in out
    (tmp_path / "mine.txt").write_text("mine")
    assert chimera("state", "rm", "a.state", "mine.txt")[0] == 2
    assert (tmp_path / "a.state").is_file(), "a wrong word removes nothing"
    assert chimera("state", "rm", "a.state", "d.state")[0] == 0
    assert sorted(path.name for path in tmp_path.glob("*.state")) == ["b.state", "c.state"]
    for arguments in (["rm"], ["diff", "b.state"], ["show"], ["show", "b.state", "c.state"], ["what"]):
        assert chimera("state", *arguments)[0] == 2
    assert chimera("state", "ls", "nowhere")[0] == 3
    assert chimera("state", "diff", "b.state", "none.state")[0] == 3
