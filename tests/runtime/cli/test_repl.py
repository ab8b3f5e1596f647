"""The talk at a real terminal: prompt line, history, commands, Ctrl-C."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.load import preset
from runtime.cli.line import Line, history_path
from runtime.random_model import random_b158
from tests.runtime.cli.talking import FOREVER, ROOT, Terminal, make_model, make_tokenizer

# Three tokens, and never none: an answer that ends at once shows no line.
BRIEF = ["-n", "3", *FOREVER[2:]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def test_ctrl_c_ends_an_answer_and_twice_the_talk(model: Path, tmp_path: Path):
    with Terminal("-m", str(model), "--seed", "1", *FOREVER, state=tmp_path) as terminal:
        assert "model micro" in terminal.wait_for(r"> ")
        terminal.type("hello\n")
        terminal.wait_for(r"hello\r\n")
        terminal.wait_for(r"(?s).{200}")
        terminal.type("\x03")
        terminal.wait_for(r"\n> ")
        terminal.type("/stats\n")
        shown = terminal.wait_for(r"seed +1\r\n")
        assert "answer_tokens" in shown
        assert "loop_count_mean" in shown
        terminal.type("/undo\n")
        terminal.wait_for("taken back: hello\r\n> ")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.interrupt()
        terminal.wait_for(r"Ctrl-C again leaves.*\r\n> ")
        assert terminal.leaves(typing="\x03") == 130


def test_two_in_a_row_leave_in_the_middle_of_an_answer(model: Path, tmp_path: Path):
    with Terminal("-m", str(model), *FOREVER, state=tmp_path) as terminal:
        terminal.wait_for(r"> ")
        terminal.type("hello\n")
        terminal.wait_for(r"hello\r\n(?s:.{50})")
        terminal.type("\x03")
        terminal.wait_for(r"\n> ")
        assert terminal.leaves(typing="\x03") == 130


def test_lines_are_remembered_from_talk_to_talk(model: Path, tmp_path: Path):
    with Terminal("-m", str(model), *BRIEF, state=tmp_path) as terminal:
        terminal.wait_for(r"> ")
        terminal.type("first message\n")
        terminal.wait_for(r"message\r\n")
        terminal.wait_for(r"\n> ")
        terminal.type("\x04")
        assert terminal.leaves() == 0
    with Terminal("-m", str(model), *BRIEF, state=tmp_path) as terminal:
        terminal.wait_for(r"> ")
        terminal.type("\x10\n")
        terminal.wait_for(r"first message")
        terminal.wait_for(r"\n> ")
        terminal.type("/undo\n")
        terminal.wait_for("taken back: first message")
        terminal.type("/exit\n")
        assert terminal.leaves() == 0


def test_lines_are_kept_as_they_are_said_for_nobody_else(model: Path, tmp_path: Path):
    """A talk ends with its terminal, or is killed; another may go on at the same time."""
    remembered = tmp_path / "chimera" / "history"
    with (
        Terminal("-m", str(model), *BRIEF, state=tmp_path) as one,
        Terminal("-m", str(model), *BRIEF, state=tmp_path) as two,
    ):
        for terminal, line in ((one, "of the one"), (two, "of the two"), (one, "of both")):
            terminal.wait_for(r"> ")
            terminal.type(f"{line}\n")
            terminal.wait_for(rf"{line}\r\n(?s:.*)\n(?=> )")
    assert remembered.read_text() == "of the one\nof the two\nof both\n"
    assert remembered.stat().st_mode & 0o777 == 0o600


def test_a_long_history_is_cut_when_a_talk_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    path = history_path()
    assert path == tmp_path / "chimera" / "history"
    path.parent.mkdir()
    path.write_text("".join(f"line {number}\n" for number in range(1500)))
    with Line():
        pass
    assert path.read_text().split("\n")[:1] == ["line 500"]
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert history_path() is None
    with Line():
        pass


def nowhere() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_bytes_that_are_no_text_are_signs(model: Path, tmp_path: Path):
    with Terminal("-m", str(model), *BRIEF, state=tmp_path) as terminal:
        terminal.wait_for(r"> ")
        terminal.type_bytes(b"caf\xe9 au lait\n")
        terminal.wait_for(r"lait\r\n(?s:.*)\n(?=> )")
        terminal.type("/undo\n")
        # Some prompt lines leave such a byte out.
        assert re.search("taken back: caf\ufffd? au lait", terminal.wait_for(r"taken back.*\n"))
        terminal.type("/quit\n")
        assert terminal.leaves() == 0


def test_a_model_says_nothing_that_a_terminal_obeys(tmp_path: Path):
    config = replace(preset("micro"), name_or_path="\x1b[2Jmodel\r\u202e")
    random_b158(config, tmp_path / "model.b158", seed=1)
    make_tokenizer(tmp_path)
    with Terminal("-m", str(tmp_path), *BRIEF, state=tmp_path) as terminal:
        shown = terminal.wait_for(r"> ")
        assert r"model \x1b[2Jmodel\r\u202e. " in shown
        terminal.type("/set\n")
        shown += terminal.wait_for(r"mode .*\n")
        terminal.type("/exit\n")
        assert terminal.leaves() == 0
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}


def test_a_home_that_cannot_be_written_costs_the_history_alone(model: Path):
    with Terminal("-m", str(model), *BRIEF, state=Path("/proc/nowhere")) as terminal:
        terminal.wait_for(r"> ")
        terminal.type("hello\n")
        terminal.wait_for(r"hello\r\n")
        terminal.wait_for(r"\n> ")
        terminal.type("/exit\n")
        assert terminal.leaves() == 0


def chat(model: Path, lines: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A talk whose lines are piped in."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "runtime.cli.main",
            "chat",
            "-m",
            str(model),
            "-n",
            "6",
            "--seed",
            "3",
            *arguments,
        ],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_commands_do_what_they_say_and_stay_off_stdout(model: Path):
    script = ["one", "/regen", "/undo", "one", "/set temp 0", "two", "/undo", "two", "/reset", "one", "/help"]
    result = chat(model, "\n".join(script) + "\n")
    assert result.returncode == 0
    answers = result.stdout.split("\n")
    plain = chat(model, "one\n/set temp 0\ntwo\n").stdout
    assert result.stdout.startswith(plain.split("\n")[0])
    assert "taken back: one" in result.stderr
    assert "the talk is forgotten" in result.stderr
    assert "/regen" in result.stderr
    assert "> " not in result.stdout
    assert len(answers) >= 6


def test_settings_are_shown_changed_and_checked(model: Path):
    lines = [
        *(
            "/set",
            "/set temp 0.25",
            "/set top-k 7",
            "/set stop a\\nb",
            "/set max-tokens 2",
            "/set mode reasoning",
        ),
        *(
            "/set system Be kind.",
            "/set",
            "/set temp hot",
            "/set colour red",
            "/set temp -1",
            "/sett",
            "/set mode slow",
        ),
    ]
    result = chat(model, "\n".join(lines) + "\n")
    assert result.returncode == 0
    assert result.stdout == ""
    shown = result.stderr
    for line in (
        *("temp            0.7", "temp            0.25", "top-k           7", "stop            'a\\nb'"),
        *("max-tokens      2", "loops           2", "loops           4", "system          Be kind."),
        "'hot' is no number",
        "nothing to set is named colour",
        "temperature -1.0; allowed",
        "there is no command /sett\nhint: Did you mean /set?",
        "this model has no mode 'slow'; it has fast, balanced, reasoning",
        "4 rounds of the loop from now on",
    ):
        assert line in shown, line


def test_a_line_goes_on_after_a_backslash(model: Path):
    result = chat(model, "one \\\ntwo\n/undo\n")
    assert "taken back: one \ntwo" in result.stderr


def test_json_needs_a_prompt(model: Path):
    result = chat(model, "", "--json")
    assert result.returncode == 2
    assert "--json answers a prompt" in result.stderr
