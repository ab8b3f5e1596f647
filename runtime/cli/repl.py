"""The talk at a terminal: a prompt line with history, answers as they come, and commands after a slash."""

import argparse
import signal
import sys

from configs.errors import EXIT_DONE, EXIT_INTERRUPTED, ChimeraError, UsageError
from runtime.cli.commands import Leave, obey
from runtime.cli.line import Line
from runtime.cli.numbers import spoken
from runtime.cli.once import finish, reading_shown
from runtime.cli.opening import Opened, opened
from runtime.cli.out import OutputError, interruptible, write_answer
from runtime.cli.report import print_error
from runtime.cli.streams import settle_stdout


def talk(args: argparse.Namespace) -> int:
    """Talk until the user leaves."""
    if args.json:
        raise UsageError(
            "--json answers a prompt, and there is none", hint='As in: chimera-run --json "Hello"'
        )
    with opened(args) as here:
        if sys.stderr.isatty():
            print(_greeting(here), file=sys.stderr)
        with Line() as line:
            try:
                code = _talk(here, line, tells_stats=args.stats)
            except BrokenPipeError:
                # Whoever read the answers has had enough of them.
                settle_stdout()
                finish(here, args)
                return EXIT_DONE
            if code == EXIT_INTERRUPTED:
                # Whoever presses Ctrl-C once more while threads and files are closed means the same.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            finish(here, args)
            return code


def _talk(here: Opened, line: Line, *, tells_stats: bool) -> int:
    interrupts = 0
    while True:
        try:
            said = line.read()
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts > 1:
                return EXIT_INTERRUPTED
            print("\n(Ctrl-C again leaves, and so does /exit)", file=sys.stderr)
            continue
        if said is None:
            return EXIT_DONE
        if not said.strip():
            continue
        interrupts = 0
        try:
            with interruptible(here.session.cancel) as met, reading_shown(said) as progress:
                if said.startswith("/"):
                    pieces = obey(here, said)
                else:
                    begin = here.session.say if here.session.is_chat else here.session.complete
                    pieces = begin(said, progress=progress)
                if pieces is None:
                    continue
                write_answer(pieces)
            interrupts = len(met)
            if tells_stats:
                print(spoken(here), file=sys.stderr)
        except Leave:
            return EXIT_DONE
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except OutputError:
            raise
        except ChimeraError as error:
            # What one message did wrong does not end a talk.
            kind = type(error).__name__
            print_error(
                kind=kind, message=error.message, hint=error.hint, exit_code=error.exit_code, as_json=False
            )


def _greeting(here: Opened) -> str:
    from configs.version import VERSION

    return f"Chimera {VERSION}, model {here.name}. /help tells what can be said here, Ctrl-D leaves."
