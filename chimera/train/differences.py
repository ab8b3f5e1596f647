"""Where two JSON values differ, key by key, in words."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from configs.wording import Place, path_text, show

SHOWN = 20


class _Absent:
    """What stands for the value of a key that one side lacks."""


ABSENT: Final = _Absent()


class Difference(NamedTuple):
    """One key that differs, and its value on both sides."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} in the run, {_shown(self.now)} now"


def differences(before: Any, now: Any) -> tuple[Difference, ...]:
    """Every key whose value differs, whole numbers and their floats being equal."""
    old, new = dict(_leaves(before, ())), dict(_leaves(now, ()))
    pairs = ((place, old.get(place, ABSENT), new.get(place, ABSENT)) for place in {**old, **new})
    return tuple(Difference(path_text(place), was, is_) for place, was, is_ in pairs if not _same(was, is_))


def is_under(key: str, names: Collection[str]) -> bool:
    """Whether a key is one of those named, or inside of one."""
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in names)


def report(found: Collection[Difference]) -> str:
    """A line for each difference, up to a number that a person reads."""
    lines = [f"\n  {one}" for one in list(found)[:SHOWN]]
    return "".join(lines) + (f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    inner = (
        list(value.items())
        if isinstance(value, Mapping)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    if not inner:
        yield place, value
    for step, one in inner:
        yield from _leaves(one, (*place, step))


def _same(before: Any, now: Any) -> bool:
    return before == now and isinstance(before, bool) == isinstance(now, bool)


def _shown(value: Any) -> str:
    return "not set" if value is ABSENT else show(value)
