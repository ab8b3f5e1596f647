"""JSON values by their paths, as plain objects: read, put, dropped, copied and merged."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

Raw = dict[str, Any]


def as_object(value: Any) -> Mapping[str, Any] | None:
    """The value if it is a JSON object."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None


def get(raw: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = raw
    for name in path.split("."):
        inner = as_object(value)
        value = None if inner is None else inner.get(name)
    return value


def section(raw: Raw, *names: str) -> Raw:
    """The object at a path, made where it is missing; a stand-in where the file has something else there."""
    for name in names:
        inner = raw.setdefault(name, {})
        if not isinstance(inner, dict):
            return {}
        raw = cast(Raw, inner)
    return raw


def put(raw: Raw, path: str, value: Any) -> None:
    """Set the value at a path."""
    *sections, name = path.split(".")
    section(raw, *sections)[name] = value


def drop(raw: Raw, path: str) -> None:
    """Remove what stands at a path; `*` means every name."""
    for *sections, name in list(_matching(raw, path)):
        inner: Any = raw
        for outer in sections:
            inner = inner[outer]
        del inner[name]


def _matching(raw: Mapping[str, Any], path: str) -> Iterator[tuple[str, ...]]:
    first, _, rest = path.partition(".")
    for name in list(raw) if first == "*" else [first] if first in raw else []:
        inner = as_object(raw[name])
        if not rest:
            yield (name,)
        elif inner is not None:
            yield from ((name, *deeper) for deeper in _matching(inner, rest))


def copied(value: Any) -> Any:
    """A copy that shares nothing with the original."""
    if isinstance(value, Mapping):
        return {name: copied(item) for name, item in cast("Mapping[str, Any]", value).items()}
    return [copied(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def merged(base: Raw, named: Mapping[str, Any]) -> Raw:
    """The base, changed in place, with every named value on top; objects merge name by name."""
    for name, value in named.items():
        inner, over = base.get(name), as_object(value)
        if over is not None and isinstance(inner, dict):
            merged(cast(Raw, inner), over)
        else:
            base[name] = copied(value)
    return base
