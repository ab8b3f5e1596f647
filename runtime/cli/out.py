"""How an answer is written while it comes, and how Ctrl-C ends it."""

import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType

from configs.errors import ChimeraError
from runtime.cli.streams import settle_stdout

# A model may say anything, also what would clear a terminal's screen or write its title.
_CONTROLS = {number: "\ufffd" for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}


class OutputError(ChimeraError):
    """Stdout takes nothing more."""


def write_answer(pieces: Iterable[str]) -> None:
    """Write the pieces to stdout as they come, and end the line."""
    for_people = sys.stdout.isatty()
    encoding = sys.stdout.encoding or "utf-8"
    last = "\n"
    for piece in pieces:
        shown = piece.translate(_CONTROLS) if for_people else piece
        write(shown.encode(encoding, "replace").decode(encoding))
        last = piece[-1]
    if last != "\n":
        write("\n")


def write(text: str) -> None:
    """Write to stdout at once."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        settle_stdout()
        raise OutputError(
            f"the answer cannot be written: {error.strerror or error}", hint="Let stdout lead elsewhere."
        ) from error


@contextmanager
def interrupted_late() -> Generator[Callable[[], None]]:
    """Inside, the first Ctrl-C raises where the function given is called, or at the end; the second at once.

    Libraries that are loaded and compilers that run call back into Python, and what is raised there is lost.
    """

    def raise_if_met() -> None:
        if met:
            raise KeyboardInterrupt

    with interruptible(lambda: None) as met:
        yield raise_if_met
        raise_if_met()


@contextmanager
def interruptible(cancel: Callable[[], None]) -> Generator[list[int]]:
    """Inside, the first Ctrl-C calls `cancel`, the second raises. The list given has an entry for each."""
    met: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        met.append(number)
        if len(met) > 1:
            raise KeyboardInterrupt
        cancel()

    if threading.current_thread() is not threading.main_thread():
        yield met
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield met
    finally:
        signal.signal(signal.SIGINT, before)
