"""What a person is told while kernels are compiled. No library for bars is loaded: most starts need none."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from quant import cpu, native
from quant.compiling import on_compile

_BAR = 24
"""Places of the bar."""
WIDTH = 200
"""Columns of a terminal that does not tell."""
DUMB = ("dumb", "unknown")
"""Terminals on which a line cannot be taken back."""
CLEAR = "\x1b[K"
"""Empties the rest of a terminal's line."""


@contextmanager
def compiling_told(look_out: Callable[[], None] | None = None) -> Generator[None]:
    """Inside, a bar and the name of each kernel to be compiled stand on a terminal's line, gone afterwards.

    `look_out` is called before each of them: it may raise.
    """

    def tell(kernel: str) -> None:
        if look_out is not None:
            look_out()
        if for_people:
            nonlocal most
            most = max(most or _left_to_compile(), len(told) + 1)
            told.append(kernel.rsplit(".", 1)[-1])
            done = _BAR * (len(told) - 1) // most
            bar = f"[{'#' * done}{'.' * (_BAR - done)}]"
            line = f"{bar} {len(told)} of at most {most}: compiling {told[-1]}, once on this machine"
            _write(f"\r{CLEAR}{line[: _columns() - 1]}")

    told: list[str] = []
    most = 0
    for_people = sys.stderr.isatty() and os.environ.get("TERM") not in DUMB
    try:
        with on_compile(tell):
            yield
    finally:
        if told:
            _write(f"\r{CLEAR}")


def _write(text: str) -> None:
    # A terminal that was closed meanwhile is no reason to leave a kernel half compiled.
    with suppress(OSError):
        print(text, end="", file=sys.stderr, flush=True)


def _columns() -> int:
    """The width of the terminal: what is longer could not be taken back."""
    with suppress(OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH
    return WIDTH


def _left_to_compile() -> int:
    """Kernels of the table that wait for nobody but the compiler. A model may need fewer."""
    from quant.kernels.forms import FORMS

    best = {forms[cpu.choose(forms).form] for forms in FORMS.values()}
    return sum(not native.is_ready(kernel) for kernel in best)
