"""Who wants to know which kernels are compiled while a program waits for them."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


@contextmanager
def on_compile(listener: Callable[[str], None]) -> Generator[None]:
    """While inside, `listener` is told the name of each kernel that has to be compiled, as it begins."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(name: str) -> None:
    """A kernel is about to be compiled."""
    for listener in _listeners:
        listener(name)
