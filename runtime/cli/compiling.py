"""What a person is told while kernels are compiled. No library for bars is loaded: most starts need none."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from quant import cpu, jit

_BAR = 24
"""Places of the bar."""
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
            print(f"\r{CLEAR}{line}", end="", file=sys.stderr, flush=True)

    told: list[str] = []
    most = 0
    for_people = sys.stderr.isatty()
    try:
        with jit.on_compile(tell):
            yield
    finally:
        if told:
            print(f"\r{CLEAR}", end="", file=sys.stderr, flush=True)


def _left_to_compile() -> int:
    """Kernels of the table that wait for nobody but the compiler. A model may need fewer."""
    from quant.kernels.table import OPERATIONS

    best = (operation.forms[cpu.choose(operation.forms).form] for operation in OPERATIONS.values())
    return sum(not jit.is_compiled(kernel) for kernel in best)
