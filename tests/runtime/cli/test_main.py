"""The command line: verbs, help, and what each kind of end means for the shell."""

import argparse
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from configs import errors
from configs.version import VERSION
from runtime.cli import main as main_module
from runtime.cli.main import VERBS, Verb, main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def install_verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Add a verb `act` to the table, with a number as its argument, that does what the test says."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("number", type=int)
        parser.add_argument("--colour")

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = types.ModuleType("acting")
        module.__dict__.update(add_arguments=add_arguments, run=run)
        monkeypatch.setitem(sys.modules, "acting", module)
        monkeypatch.setitem(main_module.VERBS, "act", Verb("acting", "act as told"))

    return install


def chimera(
    *arguments: str, stdout: IO[str] | int | None = None, env: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "runtime.cli.main", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=stdout, stderr=subprocess.PIPE)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for name, verb in VERBS.items():
        assert f"{name} {verb.summary}" in lines


def test_no_verb_is_a_usage_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: chimera VERB")


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"chimera {VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspekt"], "chimera: error: there is no verb 'inspekt'\nhint: Did you mean 'inspect'?\n"),
        (["zzz"], "chimera: error: there is no verb 'zzz'\nhint: The verbs are: "),
        (["--colour"], "chimera: error: '--colour' is no option of `chimera` itself\nhint: "),
        (
            ["act"],
            "chimera: error: the following arguments are required: number\nhint: See: chimera act --help\n",
        ),
        (["act", "x"], "chimera: error: argument number: invalid int value: 'x'\nhint: See: "),
        (
            ["act", "1", "--col", "red"],
            "chimera: error: unrecognized arguments: --col red\n"
            "hint: Did you mean --colour? See: chimera act --help\n",
        ),
        (
            ["act", "1", "--zzz"],
            "chimera: error: unrecognized arguments: --zzz\nhint: See: chimera act --help\n",
        ),
        (
            ["act", "1", "2"],
            "chimera: error: unrecognized arguments: 2\nhint: A text of several words stands in quotes. ",
        ),
    ],
)
def test_a_wrong_command_line_is_one_message(
    arguments: list[str],
    message: str,
    install_verb: Callable[[Callable[[argparse.Namespace], int]], None],
    capsys: pytest.CaptureFixture[str],
):
    install_verb(lambda args: 0)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(message)


def test_a_verb_gets_its_arguments_and_gives_the_exit_code(
    install_verb: Callable[[Callable[[argparse.Namespace], int]], None],
):
    seen: list[argparse.Namespace] = []
    install_verb(lambda args: seen.append(args) or 7)
    assert main(["act", "3", "--colour", "red", "--json"]) == 7
    assert vars(seen[0]) == {"number": 3, "colour": "red", "json": True, "debug": False}


def failing_with(error: BaseException) -> Callable[[argparse.Namespace], int]:
    """A verb that raises `error`."""

    def run(args: argparse.Namespace) -> int:
        raise error

    return run


FAILURES = [
    pytest.param(errors.ChimeraError("it broke", hint="Mend it."), 1, "it broke", "Mend it.", id="failed"),
    pytest.param(errors.UsageError("not so"), 2, "not so", "", id="usage"),
    pytest.param(errors.ConfigError("bad key", hint="Look."), 3, "bad key", "Look.", id="model"),
    pytest.param(errors.NotEnoughMemory("too big"), 4, "too big", "", id="memory"),
    pytest.param(
        MemoryError(),
        4,
        "not enough memory",
        "Close other programs, or choose a smaller model or fewer streams.",
        id="heap",
    ),
    pytest.param(FileNotFoundError(2, "No such file", "a.json"), 1, "No such file: a.json", "", id="system"),
    pytest.param(OSError("odd"), 1, "odd", "", id="system-without-number"),
    pytest.param(BrokenPipeError(32, "Broken pipe"), 1, "Broken pipe", "", id="pipe-of-another"),
    pytest.param(
        errors.UsageError("no \x1b[31mred\x1b[0m\rin\u202e here", hint="\x07"),
        2,
        "no \\x1b[31mred\\x1b[0m\\rin\\u202e here",
        "\\x07",
        id="controls",
    ),
    pytest.param(errors.UsageError("9" * 9000), 2, "9" * 1000 + " … " + "9" * 1000, "", id="long"),
    pytest.param(
        ModuleNotFoundError("No module named 'numpy'", name="numpy"),
        1,
        "this installation is not whole: the package numpy is missing",
        "Install it again: pip install --force-reinstall chimera-edge",
        id="package",
    ),
    pytest.param(
        KeyError("x"),
        1,
        "a fault in chimera itself: KeyError: 'x'",
        "Run the same command with --debug and report what it prints.",
        id="fault",
    ),
]


@pytest.mark.parametrize(("error", "exit_code", "message", "hint"), FAILURES)
def test_an_error_is_one_message(
    error: Exception,
    exit_code: int,
    message: str,
    hint: str,
    install_verb: Callable[[Callable[[argparse.Namespace], int]], None],
    capsys: pytest.CaptureFixture[str],
):
    install_verb(failing_with(error))
    assert main(["act", "1"]) == exit_code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"chimera: error: {message}\n" + (f"hint: {hint}\n" if hint else "")


@pytest.mark.parametrize(("error", "exit_code", "message", "hint"), FAILURES)
def test_an_error_for_programs_is_one_line_of_json(
    error: Exception,
    exit_code: int,
    message: str,
    hint: str,
    install_verb: Callable[[Callable[[argparse.Namespace], int]], None],
    capsys: pytest.CaptureFixture[str],
):
    install_verb(failing_with(error))
    assert main(["act", "1", "--json"]) == exit_code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    # What stands in JSON is escaped by it, and whole.
    whole = error.message if isinstance(error, errors.ChimeraError) else message
    hint = error.hint if isinstance(error, errors.ChimeraError) else hint
    expected = {"kind": type(error).__name__, "message": whole, "hint": hint, "exit_code": exit_code}
    assert json.loads(shown.err) == {"error": expected}


def test_debug_shows_the_traceback_before_the_message(
    install_verb: Callable[[Callable[[argparse.Namespace], int]], None], capsys: pytest.CaptureFixture[str]
):
    install_verb(failing_with(errors.ChimeraError("it broke")))
    assert main(["act", "1", "--debug"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n")
    assert shown.endswith("chimera: error: it broke\n")


def test_json_after_two_dashes_is_an_argument_and_no_option(capsys: pytest.CaptureFixture[str]):
    assert main(["nothing", "--", "--json"]) == 2
    assert capsys.readouterr().err.startswith("chimera: error: ")


def test_an_interrupt_is_quiet(
    install_verb: Callable[[Callable[[argparse.Namespace], int]], None], capsys: pytest.CaptureFixture[str]
):
    install_verb(failing_with(KeyboardInterrupt()))
    assert main(["act", "1"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_a_closed_pipe_is_quiet(arguments: list[str]):
    reader, writer = os.pipe()
    os.close(reader)
    with chimera(*arguments, stdout=writer) as process:
        os.close(writer)
        assert process.communicate(timeout=60) == (None, "")
    assert process.returncode == 0


def test_a_full_disk_is_one_message():
    with (
        Path("/dev/full").open("w") as full,
        chimera("--help", stdout=full) as process,
    ):
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert message == "chimera: error: No space left on device\n"


def test_a_name_that_the_terminal_cannot_show_is_escaped():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with chimera("inspéct", env=environment) as process:
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert message == "chimera: error: there is no verb 'insp\\xe9ct'\nhint: Did you mean 'inspect'?\n"
