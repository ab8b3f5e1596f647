"""A log's steps, taken one by one: as the run took them, and as every replay does."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Protocol

from configs.errors import AdapterError, UsageError
from quant.adapter import Adapter, Record, Setting


class Taker(Protocol):
    """Who takes steps."""

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None: ...


class Learnt(Taker, Protocol):
    """What a log moves."""

    def look(self, step: int, *, pair: int = 0, side: int) -> None: ...

    def settle(self) -> None: ...


def made_of(adapter: Adapter, make: Callable[..., Learnt]) -> Learnt:
    """What a log moves, as its header says; `make` takes a seed and settings."""
    header = adapter.header
    try:
        return make(seed=header.seed, settings=header.settings)
    except UsageError as error:
        raise AdapterError(
            f"{adapter.path} says what no run is told: {error.message}",
            hint="It was written by another version, or by hand.",
        ) from error
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise AdapterError(
            f"{adapter.path} lacks a setting of the method {header.method}: {error}",
            hint="Read it with the version of Chimera that wrote it.",
        ) from error


def replay(adapter: Adapter, learnt: Learnt) -> None:
    """Take all steps of a log."""
    try:
        for record in adapter.steps:
            take(record, learnt, settings=adapter.header.settings)
    except AdapterError as error:
        raise AdapterError(f"{adapter.path}: {error.message}", hint=error.hint) from error
    learnt.settle()


def take(record: Record, taker: Taker, *, settings: Mapping[str, Setting]) -> None:
    """Take one step, as the run took it and as every replay does."""
    taker.apply(record.step, record.numbers, decay=decay_of(record, settings))


def decay_of(record: Record, settings: Mapping[str, Setting]) -> float:
    """What a step gives up: the share that the run was told, falling as its rate falls."""
    decay, rate = _number(settings, "decay"), _number(settings, "rate")
    if not decay or not rate:
        return 0.0
    share = decay * record.rate / rate
    if not 0 <= share < 1.001:  # the rate is rounded
        raise AdapterError(
            f"step {record.step} of the log gives up {share:g} of what was learnt; allowed are 0 to 1",
            hint="It is damaged or made by hand. Take another copy of it.",
        )
    return share


def _number(settings: Mapping[str, Setting], name: str) -> float:
    value = settings.get(name, 0.0)
    try:
        found = float("nan") if isinstance(value, str) else float(value)
    except OverflowError:
        found = float("nan")
    if not isfinite(found):
        raise AdapterError(
            f"the log says {name} {str(value)[:40]!r}; a number is needed",
            hint="It is damaged or made by hand. Take another copy of it.",
        )
    return found
