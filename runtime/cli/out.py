"""How an answer is written while it comes, and how Ctrl-C ends it."""

import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType

# A model may say anything, also what would clear a terminal's screen or write its title.
_CONTROLS = {number: "\ufffd" for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}


def write_answer(pieces: Iterable[str]) -> None:
    """Write the pieces to stdout as they come, and end the line."""
    for_people = sys.stdout.isatty()
    encoding = sys.stdout.encoding or "utf-8"
    last = "\n"
    for piece in pieces:
        shown = piece.translate(_CONTROLS) if for_people else piece
        sys.stdout.write(shown.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
        last = piece[-1]
    if last != "\n":
        sys.stdout.write("\n")
        sys.stdout.flush()


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
