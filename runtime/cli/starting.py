"""How a start is kept short."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def nothing_collected() -> Generator[None]:
    """Inside, no garbage is looked for: what a start makes stays. Afterwards it is not looked at again.

    Modules are hundreds of thousands of objects, and the collector would go through them time and again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
