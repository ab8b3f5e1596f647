"""Ctrl-C during a run: the first one asks for an end after the step, the second leaves at once.

Of several workers each is told twice, by the terminal and by torchrun: there no second one counts, and who
does not end within torchrun's own time is killed by it, as by SIGKILL anywhere.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = "stopping after this step, with a checkpoint"
SECOND = "; Ctrl-C again leaves at once"


class Interrupts:
    """Whether somebody has asked for an end."""

    def __init__(self, *, second_leaves: bool) -> None:
        self._second_leaves = second_leaves
        self.asked = False
        """Whether the run is to end after its step."""
        self._wake = threading.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal. A second Ctrl-C is what it is without us."""
        if number == signal.SIGINT and self.asked and self._second_leaves:
            raise KeyboardInterrupt
        self.asked = True
        self._wake.set()

    def confirm(self, say: Callable[[str], None]) -> None:
        """Wait until somebody asks, or nobody can any more, and answer."""
        self._wake.wait()
        if self.asked:
            say(ASKED + (SECOND if self._second_leaves else ""))

    def release(self) -> None:
        """Nobody can ask any more."""
        self._wake.set()


@contextmanager
def watched(say: Callable[[str], None], *, second_leaves: bool = True) -> Iterator[Interrupts]:
    """Inside, SIGINT and SIGTERM ask for an end instead of bringing it; they reach the main thread alone.

    The answer is spoken by a thread of its own: a signal may come in the middle of a write to the terminal,
    which must not be entered twice.
    """
    interrupts = Interrupts(second_leaves=second_leaves)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    speaker = threading.Thread(target=interrupts.confirm, args=(say,), daemon=True)
    speaker.start()
    before = {number: signal.signal(number, interrupts.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        interrupts.release()
        speaker.join()
