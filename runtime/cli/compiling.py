"""What a person is told while kernels are compiled. No library for bars is loaded: most starts need none."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from quant import jit

CLEAR = "\x1b[K"
"""Empties the rest of a terminal's line."""


@contextmanager
def compiling_told(look_out: Callable[[], None] | None = None) -> Generator[None]:
    """Inside, each kernel to be compiled is named on a terminal, on a line that is gone afterwards.

    `look_out` is called before each of them: it may raise.
    """

    def tell(kernel: str) -> None:
        if look_out is not None:
            look_out()
        if for_people:
            name = kernel.rsplit(".", 1)[-1]
            told.append(name)
            print(f"\r{CLEAR}compiling {name}, once on this machine", end="", file=sys.stderr, flush=True)

    told: list[str] = []
    for_people = sys.stderr.isatty()
    try:
        with jit.on_compile(tell):
            yield
    finally:
        if told:
            print(f"\r{CLEAR}", end="", file=sys.stderr, flush=True)
