"""Ctrl-C between two steps and not inside of one: what is done in one go is done, and then it is heard.

Python calls a signal's handler in the main thread between any two of its instructions, and most handlers
raise there. Inside `held_back` the handler of before is only called at the end, so nothing that has to be
said of a stream, be it its state, its ids or what the head heard, is ever half said.

What is held back takes as long as the machine computes. A disk that hangs, or a caller's function, may take
for ever: a second interrupt that comes a while after the first goes through at once.
"""

import signal
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Self

PATIENCE_S = 1.0
"""So long after an interrupt that is held back, another one is heard where it comes."""


class held_back:
    """A context inside of which an interrupt waits for the end. Only the main thread is ever interrupted."""

    __slots__ = ("_before", "_met", "_since")

    def __init__(self) -> None:
        self._before: Callable[[int, FrameType | None], object] | None = None
        self._met: list[FrameType | None] = []
        self._since = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            # Who is inside of another already leaves it to that one; who ignores interrupts, or dies of
            # them without Python, goes on doing so.
            if callable(before) and not isinstance(getattr(before, "__self__", None), held_back):
                self._before = before
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._tell()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._since = self._since if self._met else monotonic()
        self._met.append(frame)
        if monotonic() - self._since >= PATIENCE_S:
            self._tell()

    def _tell(self) -> None:
        while self._met and self._before is not None:
            self._before(signal.SIGINT, self._met.pop(0))
