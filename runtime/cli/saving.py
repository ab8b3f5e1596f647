"""Talks that come from a file and go to one: `--load`, `--fork`, `--save`, `/save` and `/load`."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from runtime.cli.choices import draws
from runtime.cli.opening import Opened
from runtime.model_folder import template_digest
from runtime.streams.about import Identity
from runtime.streams.sections import is_state_file
from runtime.streams.state_file import SUFFIX, open_state, restored_talk, save_talk


def check_saving(args: argparse.Namespace) -> None:
    """Refuse what cannot work before a model is loaded."""
    if args.load is not None and args.fork is not None:
        raise UsageError("--load goes on as it was, --fork otherwise", hint="Give one of them.")
    source = args.load if args.fork is None else args.fork
    if source is not None:
        open_state(state_path(source))
        if args.system is not None:
            raise UsageError(
                "--system begins a talk, and the one that is loaded has begun", hint="Leave out one of them."
            )
    if args.save is not None:
        check_target(state_path(args.save))


def begin_saved(here: Opened, args: argparse.Namespace) -> None:
    """Put the session where the file's talk was. What the arguments say counts, else the file."""
    asked_rounds = here.session.rounds
    if args.load is not None:
        load(here, state_path(args.load), asked=_asked(args))
    elif args.fork is not None:
        another = {"seed": int.from_bytes(os.urandom(4))}
        load(here, state_path(args.fork), asked=another | _asked(args))
    if (args.loops is not None or args.mode is not None) and here.session.rounds != asked_rounds:
        here.session.set_rounds(asked_rounds)


def _asked(args: argparse.Namespace) -> dict[str, object]:
    # No bias is given by no option, and the file's stands.
    return {name: value for name, value in draws(args).items() if name != "logit_bias" or value}


def load(here: Opened, path: Path, *, asked: Mapping[str, Any] | None = None) -> None:
    """Go on with the talk of a file; what is asked for of drawing counts before what it says."""
    talk = restored_talk(open_state(path), here.engine, identity=identity_of(here))
    if talk.rounds is not None and talk.rounds != here.session.rounds:
        here.engine.check_memory(talk.rounds)
    here.session.resume(talk, settings=replace(talk.settings, **(asked or {})))


def save_as(here: Opened, words: str) -> None:
    """Write the talk to the file that a name means."""
    save(here, state_path(words))


def save(here: Opened, path: Path) -> None:
    """Write the talk to a file; one that is no state is not overwritten."""
    check_target(path)
    save_talk(path, here.session.talk(), identity=identity_of(here))


def check_target(path: Path) -> None:
    """Refuse to write where there is another kind of thing, or no folder."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"Name a file in it, as in {path / ('talk' + SUFFIX)}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="Make it first.")
    if path.exists() and not is_state_file(path):
        raise UsageError(f"{path} is there already and is no saved state", hint="Name another file.")


def state_path(words: str) -> Path:
    """The file that a name means: with our suffix, where it has none."""
    if "\0" in words:
        raise UsageError(f"{words!r} can be no file's name", hint="Leave out what is no character.")
    path = Path(words).expanduser()
    return path if path.suffix or path.is_dir() else path.with_name(path.name + SUFFIX)


def identity_of(here: Opened) -> Identity:
    """What a state of this talk belongs to."""
    return Identity(
        name=here.name,
        model=here.base_digest,
        tokenizer=here.tokenizer.digest,
        template="" if here.template is None else template_digest(here.template.source),
        adapters=here.adapter_digests,
    )
