"""Standard streams that a caller closed, and a stdout that takes nothing more.

A process may be started without them (`chimera-run … <&- >&-`). Python then has None in their place, and the
next file that is opened, be it a model, takes the number of the stream that is missing.
"""

import os
import select
import sys
from typing import Literal, TextIO


def open_missing() -> None:
    """Put nothing where a stream is missing: a reader finds the end, a writer is not heard."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, and that is this one.
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = _present(sys.stdin, 0, mode="r")
    sys.stdout = _present(sys.stdout, 1, mode="w")
    sys.stderr = _present(sys.stderr, 2, mode="w")


def reader_has_left() -> bool:
    """Whether stdout is a pipe or a connection that nobody reads any more."""
    watch = select.poll()
    try:
        watch.register(sys.stdout.fileno(), 0)
    except OSError:  # no stream of the system's
        return False
    # Asked for nothing, the system tells of ends and errors alone.
    return bool(watch.poll(0))


def settle_stdout() -> None:
    """Point a stdout that takes nothing more at nothing, or the interpreter complains again as it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def _present(stream: TextIO | None, number: int, *, mode: Literal["r", "w"]) -> TextIO:
    return open(number, mode, encoding="utf-8", closefd=False) if stream is None else stream
