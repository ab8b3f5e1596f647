"""JSON values ↔ the dataclasses of `configs.schema`, strictly, with every problem found at once."""

import dataclasses
import difflib
import re
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from configs.schema.keys import Field, Key, fields_of, is_note

Section = TypeVar("Section")

TYPE_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    dict: "an object",
    list: "an array",
    types.NoneType: "null",
}
LARGEST_INTEGER = 2**53
"""Beyond this, other JSON readers lose digits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a config, and where."""

    path: str
    message: str
    missing: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class _Wrong:
    """What stands in for a value that could not be read."""


WRONG = _Wrong()


def decode(
    section: type[Section], raw: Mapping[str, Any], *, path: str, problems: list[Problem]
) -> Section | None:
    """Builds a section from JSON. What is wrong goes to `problems`; then the result is None."""
    known = {field.json: field for field in fields_of(section)}
    skipped: frozenset[str] = getattr(section, "NOTES", frozenset())
    found: dict[str, Any] = {}
    before = len(problems)
    for name, value in raw.items():
        here = _join(path, name)
        if name in known:
            field = known[name]
            found[field.name] = _value(field.kind, value, key=field.key, path=here, problems=problems)
        elif not is_note(name) and name not in skipped:
            problems.append(Problem(here, _unknown_key(name, known)))
    for name, field in known.items():
        if field.required and name not in raw:
            problems.append(Problem(_join(path, name), f"missing ({field.key.meaning})", missing=True))
    return section(**found) if len(problems) == before else None


def encode(value: object) -> Any:
    """The JSON value of a section, with every key named; keys whose value is None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.json, getattr(value, field.name)) for field in fields_of(type(value)))
        return {name: encode(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {str(name): encode(item) for name, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, tuple):
        return [encode(item) for item in cast("tuple[object, ...]", value)]
    return value


def _value(kind: Any, value: Any, *, key: Key, path: str, problems: list[Problem]) -> Any:
    """One value as the type `kind`, or WRONG with a problem noted."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(kind, value, key=key, path=path, problems=problems)
    if origin is Literal:
        return _choice(get_args(kind), value, path=path, problems=problems)
    if origin is tuple:
        return _array(get_args(kind), value, key=key, path=path, problems=problems)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(get_args(kind)[1], value, key=key, path=path, problems=problems)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            return _wrong(path, f"expected an object, got {_show(value)}", problems)
        section = decode(kind, cast("Mapping[str, Any]", value), path=path, problems=problems)
        return WRONG if section is None else section
    return _scalar(cast(type, kind), value, key=key, path=path, problems=problems)


def _scalar(kind: type, value: Any, *, key: Key, path: str, problems: list[Problem]) -> Any:
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and kind is not bool):
        return _wrong(path, f"expected {TYPE_WORDS[kind]}, got {_show(value)}", problems)
    if kind is int and abs(value) > LARGEST_INTEGER:
        return _wrong(path, f"{_show(value)} is beyond the integers that JSON carries exactly", problems)
    if kind in (int, float) and not _in_range(value, key):
        return _wrong(path, f"{_show(value)} is out of range; allowed is {range_text(key)}", problems)
    if isinstance(value, str) and key.pattern and not re.fullmatch(key.pattern, value):
        return _wrong(path, f"{_show(value)} does not have the form {key.pattern}", problems)
    return value


def _union(kind: Any, value: Any, *, key: Key, path: str, problems: list[Problem]) -> Any:
    """The first member that takes the value; with none, the complaint of the member nearest in shape."""
    complaints: list[list[Problem]] = []
    for member in get_args(kind):
        if member is types.NoneType:
            if value is None:
                return None
            continue
        trial: list[Problem] = []
        result = _value(member, value, key=key, path=path, problems=trial)
        if not trial:
            return result
        complaints.append(trial)
    if len(complaints) == 1 or any(len(trial[0].path) > len(path) for trial in complaints):
        problems.extend(max(complaints, key=lambda trial: len(trial[0].path)))
        return WRONG
    members = " or ".join(_type_text(member) for member in get_args(kind) if member is not types.NoneType)
    return _wrong(path, f"expected {members}, got {_show(value)}", problems)


def _choice(choices: tuple[Any, ...], value: Any, *, path: str, problems: list[Problem]) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    hint = _nearest(value, [choice for choice in choices if isinstance(choice, str)])
    allowed = ", ".join(_show(choice) for choice in choices)
    return _wrong(path, f"{_show(value)} is not allowed; allowed is {allowed}{hint}", problems)


def _array(members: tuple[Any, ...], value: Any, *, key: Key, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, list):
        return _wrong(path, f"expected an array, got {_show(value)}", problems)
    items = cast("list[Any]", value)
    if members[-1] is Ellipsis:
        members = (members[0],) * len(items)
    if len(items) != len(members):
        return _wrong(path, f"expected an array of {len(members)}, got {len(items)} items", problems)
    return tuple(
        _value(member, item, key=key, path=f"{path}[{index}]", problems=problems)
        for index, (member, item) in enumerate(zip(members, items, strict=True))
    )


def _mapping(member: Any, value: Any, *, key: Key, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, Mapping):
        return _wrong(path, f"expected an object, got {_show(value)}", problems)
    return {
        name: _value(member, item, key=key, path=_join(path, name), problems=problems)
        for name, item in cast("Mapping[str, Any]", value).items()
        if not is_note(name)
    }


def _wrong(path: str, message: str, problems: list[Problem]) -> _Wrong:
    problems.append(Problem(path, message))
    return WRONG


def _in_range(value: float, key: Key) -> bool:
    return (key.low is None or value >= key.low) and (key.high is None or value <= key.high)


def range_text(key: Key) -> str:
    """The range of a key in words: `1 … 64`, `at least 1`, or nothing."""
    if key.low is not None and key.high is not None:
        return f"{_number(key.low)} … {_number(key.high)}"
    if key.low is not None:
        return f"at least {_number(key.low)}"
    return f"at most {_number(key.high)}" if key.high is not None else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _type_text(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is tuple:
        return "an array"
    if origin is Literal:
        return ", ".join(_show(choice) for choice in get_args(kind))
    return TYPE_WORDS.get(kind, "an object")


def _show(value: Any) -> str:
    """A short picture of a JSON value, for a message."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return f"an array of {len(cast('list[Any]', value))}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _nearest(name: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f"; did you mean {_show(near[0])}?" if near else ""


def _unknown_key(name: str, known: Mapping[str, Field]) -> str:
    for section, owned in _keys_elsewhere().items():
        if name in owned:
            return f"unknown key here; it belongs to `{section}`"
    hint = _nearest(name, list(known))
    return f"unknown key{hint}" if hint else "unknown key; keys that begin with `_` are notes and are skipped"


@cache
def _keys_elsewhere() -> Mapping[str, frozenset[str]]:
    """The keys of each section of the model, to say where a misplaced key belongs."""
    from configs.schema.model import ModelConfig

    return {
        field.json: frozenset(inner.json for inner in fields_of(field.kind))
        for field in fields_of(ModelConfig)
        if dataclasses.is_dataclass(field.kind)
    }


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
