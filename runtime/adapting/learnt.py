"""A log's steps, taken one by one: as the run took them, and as every replay does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from configs.errors import AdapterError
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
    except (KeyError, ValueError, TypeError) as error:
        raise AdapterError(
            f"{adapter.path} lacks a setting of the method {header.method}: {error}",
            hint="Read it with the version of Chimera that wrote it.",
        ) from error


def replay(adapter: Adapter, learnt: Learnt) -> None:
    """Take all steps of a log."""
    for record in adapter.steps:
        take(record, learnt, settings=adapter.header.settings)
    learnt.settle()


def take(record: Record, taker: Taker, *, settings: Mapping[str, Setting]) -> None:
    """Take one step, as the run took it and as every replay does."""
    taker.apply(record.step, record.numbers, decay=decay_of(record, settings))


def decay_of(record: Record, settings: Mapping[str, Setting]) -> float:
    """What a step gives up: the share that the run was told, falling as its rate falls."""
    decay, rate = float(settings.get("decay", 0.0)), float(settings.get("rate", 0.0))
    return decay * record.rate / rate if decay and rate else 0.0
