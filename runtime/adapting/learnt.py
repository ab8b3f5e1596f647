"""A log's steps, taken one by one: as the run took them, and as every replay does."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Protocol

from configs.errors import AdapterError, UsageError
from quant.adapter import Adapter, Record, Setting

MOST_WHOLE = (1 << 31) - 1
"""No whole number that a run is told is larger."""
HINT = "It is damaged or made by hand. Take another copy of it."


class Taker(Protocol):
    """Who takes steps."""

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None: ...


class Learnt(Taker, Protocol):
    """What a log moves."""

    def look(self, step: int, *, pair: int = 0, side: int) -> None: ...

    def settle(self) -> None: ...


def made_of(adapter: Adapter, make: Callable[..., Learnt]) -> Learnt:
    """What a log moves, as its header says; `make` takes a seed and settings."""
    with told_by(adapter):
        return make(seed=adapter.header.seed, settings=adapter.header.settings)


def replay(adapter: Adapter, learnt: Learnt) -> None:
    """Take all steps of a log, and stand where the last one ended."""
    take_all(adapter, learnt)
    learnt.settle()


def take_all(adapter: Adapter, taker: Taker) -> None:
    """Take all steps of a log."""
    with named(adapter.path):
        for record in adapter.steps:
            take(record, taker, settings=adapter.header.settings)


@contextmanager
def named(path: Path) -> Generator[None]:
    """What is wrong with a step is told with the log's name."""
    try:
        yield
    except AdapterError as error:
        raise AdapterError(f"{path}: {error.message}", hint=error.hint) from error


@contextmanager
def told_by(adapter: Adapter) -> Generator[None]:
    """What a log's settings say is what a run might have been told, or the log is refused by its name."""
    with named(adapter.path):
        try:
            yield
        except UsageError as error:
            raise AdapterError(
                f"it says what no run is told: {error.message}",
                hint="It was written by another version, or by hand.",
            ) from error
        except KeyError as error:
            raise AdapterError(
                f"it lacks a setting of the method {adapter.header.method}: {error}",
                hint="Read it with the version of Chimera that wrote it.",
            ) from error


def take(record: Record, taker: Taker, *, settings: Mapping[str, Setting]) -> None:
    """Take one step, as the run took it and as every replay does."""
    taker.apply(record.step, record.numbers, decay=decay_of(record, settings))


def decay_of(record: Record, settings: Mapping[str, Setting]) -> float:
    """What a step gives up: the share that the run was told, falling as its rate falls."""
    decay, rate = (number_told({name: 0.0, **settings}, name) for name in ("decay", "rate"))
    if not decay or not rate:
        return 0.0
    share = decay * record.rate / rate
    if not 0 <= share < 1.001:  # the rate is rounded
        raise AdapterError(
            f"step {record.step} of the log gives up {share:g} of what was learnt; allowed are 0 to 1",
            hint=HINT,
        )
    return share


def number_told(settings: Mapping[str, Setting], name: str) -> float:
    """A number that a log says."""
    value = settings[name]
    try:
        found = float("nan") if isinstance(value, str | bool) else float(value)
    except OverflowError:
        found = float("nan")
    if not isfinite(found):
        raise AdapterError(f"the log says {name} {str(value)[:40]!r}; a number is needed", hint=HINT)
    return found


def whole_told(settings: Mapping[str, Setting], name: str) -> int:
    """A whole number that a log says."""
    value = settings[name]
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_WHOLE:
        raise AdapterError(f"the log says {name} {str(value)[:40]!r}; a whole number is needed", hint=HINT)
    return value
