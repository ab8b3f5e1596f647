"""What can be said after a slash in a talk."""

import difflib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from configs.errors import UsageError
from runtime.cli.choices import checked_rounds, rounds_of_mode
from runtime.cli.numbers import spoken
from runtime.cli.opening import Opened
from runtime.cli.room import kept_bytes
from runtime.cli.tables import plain


class Leave(Exception):
    """The user wants to go."""


Act = Callable[[Opened, str], "Iterator[str] | None"]
"""Does a command with the words after it; what it gives is an answer to be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command and the line that /help shows for it."""

    act: Act
    summary: str


def obey(here: Opened, line: str) -> Iterator[str] | None:
    """Do what a line that begins with a slash says."""
    name, _, words = line.strip().partition(" ")
    name = OTHER_NAMES.get(name, name)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UsageError(
            f"there is no command {name[:60]}",
            hint=f"Did you mean {near[0]}?"
            if near
            else "A message that begins with a slash: put a space first.",
        )
    return COMMANDS[name].act(here, words.strip())


def _help(here: Opened, words: str) -> None:
    width = max(len(name) for name in COMMANDS)
    _tell("\n".join(f"{name:<{width}}  {command.summary}" for name, command in COMMANDS.items()))
    _tell("A line that ends with \\ goes on in the next. Ctrl-C ends an answer, and twice the talk.")


def _set(here: Opened, words: str) -> None:
    name, _, value = words.partition(" ")
    if not name:
        width = max(len(name) for name in _SETTINGS)
        _tell("\n".join(f"{name:<{width}}  {value}" for name, value in _current(here).items()))
        return
    if name not in _SETTINGS:
        near = difflib.get_close_matches(name, _SETTINGS, n=1)
        raise UsageError(
            f"nothing to set is named {name[:60]}; there are {', '.join(_SETTINGS)}",
            hint=f"Did you mean {near[0]}?" if near else "",
        )
    _SETTINGS[name](here, value.strip())


def _stats(here: Opened, words: str) -> None:
    _tell(spoken(here))


def _reset(here: Opened, words: str) -> None:
    here.session.reset()
    _tell("the talk is forgotten")


def _undo(here: Opened, words: str) -> None:
    _tell(f"taken back: {here.session.undo()}")


def _regenerate(here: Opened, words: str) -> Iterator[str]:
    return here.session.regenerate()


def _save(here: Opened, words: str) -> None:
    from runtime.cli.saving import save, state_path

    path = state_path(_named(words, "/save"))
    save(here, path)
    _tell(f"written to {path}")


def _load(here: Opened, words: str) -> None:
    from runtime.cli.saving import load, state_path

    load(here, state_path(_named(words, "/load")))
    last = [turn.message for turn in here.session.turns[-1:]]
    _tell(f"{here.session.position:,} tokens" + "".join(f", the last message: {text}" for text in last))


def _fork(here: Opened, words: str) -> None:
    name = here.branches.fork(words)
    _tell(f"in the branch {name} now; the talk waits where it was: /tree")


def _tree(here: Opened, words: str) -> None:
    if words:
        here.branches.go(words)
    _tell("\n".join(here.branches.drawn()))


def _named(words: str, command: str) -> str:
    if not words:
        raise UsageError(f"{command} needs the name of a file", hint=f"As in: {command} river.state")
    return words


def _leave(here: Opened, words: str) -> None:
    raise Leave


COMMANDS: dict[str, Command] = {
    "/help": Command(act=_help, summary="what can be said here"),
    "/set": Command(act=_set, summary="show how answers are drawn, or change it: /set temp 0.5"),
    "/stats": Command(act=_stats, summary="times, memory and seed of the last answer"),
    "/reset": Command(act=_reset, summary="forget the talk"),
    "/undo": Command(act=_undo, summary="take back the last message and its answer"),
    "/regen": Command(act=_regenerate, summary="answer the last message anew, and otherwise"),
    "/save": Command(act=_save, summary="write the talk to a file: /save river.state"),
    "/load": Command(act=_load, summary="go on with the talk of a file"),
    "/fork": Command(act=_fork, summary="go on in a branch, and leave the talk as it is: /fork NAME"),
    "/tree": Command(act=_tree, summary="show the branches, or go to one: /tree NAME"),
    "/exit": Command(act=_leave, summary="leave"),
}
OTHER_NAMES = {"/quit": "/exit", "/bye": "/exit", "/clear": "/reset", "/?": "/help"}
"""What other programs call the same."""


def _current(here: Opened) -> dict[str, object]:
    """What can be set, as it is."""
    settings, session = here.session.settings, here.session
    return {
        "temp": settings.temperature,
        "top-k": settings.top_k,
        "top-p": settings.top_p,
        "min-p": settings.min_p,
        "repeat-penalty": settings.repetition_penalty,
        "seed": settings.seed,
        "max-tokens": session.limits.max_tokens,
        "stop": " ".join(map(repr, session.limits.stops)) or "none",
        "system": session.system or "none",
        "loops": session.rounds,
        "mode": f"one of {', '.join(here.engine.config.modes)}" if here.engine.config.modes else "none",
    }


def _setting(name: str, kind: Callable[[str], float]) -> Callable[[Opened, str], None]:
    """Changes a setting of the sampler."""

    def change(here: Opened, value: str) -> None:
        here.session.settings = replace(here.session.settings, **{name: _number(kind, value)})

    return change


def _max_tokens(here: Opened, value: str) -> None:
    here.session.limits = replace(here.session.limits, max_tokens=int(_number(int, value)))


def _stop(here: Opened, value: str) -> None:
    stop = value.replace("\\n", "\n").replace("\\t", "\t")
    here.session.limits = replace(here.session.limits, stops=(stop,) if stop else ())


def _system(here: Opened, value: str) -> None:
    here.session.reset(system=value)
    _tell("the talk begins anew with it")


def _loops(here: Opened, value: str) -> None:
    _take_rounds(here, checked_rounds(int(_number(int, value)), here.engine.config))


def _mode(here: Opened, value: str) -> None:
    _take_rounds(here, rounds_of_mode(value, here.engine.config))


def _take_rounds(here: Opened, rounds: int) -> None:
    room = kept_bytes(here.engine, rounds, screen_bytes=here.screen_bytes)
    limited = here.engine.memory_limit_bytes is not None
    here.session.set_rounds(rounds, kept_bytes=room // 2 if limited else room)
    _tell(f"{rounds} rounds of the loop from now on; what was said is read anew")


_SETTINGS: dict[str, Callable[[Opened, str], None]] = {
    "temp": _setting("temperature", float),
    "top-k": _setting("top_k", int),
    "top-p": _setting("top_p", float),
    "min-p": _setting("min_p", float),
    "repeat-penalty": _setting("repetition_penalty", float),
    "seed": _setting("seed", int),
    "max-tokens": _max_tokens,
    "stop": _stop,
    "system": _system,
    "loops": _loops,
    "mode": _mode,
}


def _number(kind: Callable[[str], float], value: str) -> float:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{value[:60]!r} is no number", hint="As in: /set temp 0.5") from None


def _tell(words: str) -> None:
    """Beside the answers, on stderr, so that a pipe holds those alone."""
    print("\n".join(map(plain, words.split("\n"))), file=sys.stderr)
