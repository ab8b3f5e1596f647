"""JSON values ↔ the dataclasses of `configs.schema`, strictly, with every problem found at once."""

import dataclasses
import math
import re
import types
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from configs import wording
from configs.schema.keys import NAME, Key, fields_of, is_mapping, is_note, sections
from configs.wording import TYPE_WORDS, Place, show

Section = TypeVar("Section")

MANY_PROBLEMS = 100
LARGEST_NUMBER = 2**53
"""Beyond this, JSON readers lose digits of an integer, and sums of what a config states could overflow."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a config, and where."""

    place: Place
    message: str
    missing: bool = False
    unknown: bool = False

    @property
    def path(self) -> str:
        """The place as text."""
        return wording.path_text(self.place)

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.place else self.message


class _Wrong:
    """What stands in for a value that could not be read."""


WRONG = _Wrong()


def decode(
    section: type[Section],
    raw: Mapping[str, Any],
    *,
    problems: list[Problem],
    place: Place = (),
    also: Collection[str] = (),
) -> Section | None:
    """Builds a section from JSON. What is wrong goes to `problems`; then the result is None.

    `also` are names that the caller reads itself, to be offered where a key is misspelt.
    """
    known = {field.json: field for field in fields_of(section)}
    skipped: frozenset[str] = getattr(section, "NOTES", frozenset())
    found: dict[str, Any] = {}
    before = len(problems)
    for name, value in raw.items():
        here = (*place, name)
        if name in known:
            field = known[name]
            found[field.name] = _value(field.kind, value, key=field.key, place=here, problems=problems)
        elif not is_note(name) and name not in skipped:
            # Likeness is costly, and nobody reads so long a list to its end.
            terse = len(problems) > MANY_PROBLEMS
            message = (
                "unknown key"
                if terse
                else wording.unknown_key(name, known=(*known, *also), elsewhere=_owners())
            )
            problems.append(Problem(here, message, unknown=True))
    for name, field in known.items():
        if field.required and name not in raw:
            message = f"missing ({field.key.meaning}); name it, or a preset to build on"
            problems.append(Problem((*place, name), message, missing=True))
    return section(**found) if len(problems) == before else None


def without_nulls(section: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON without keys that are null where null means nothing is named, so that rules can fill them."""
    kinds = {field.json: field.kind for field in fields_of(section)}
    kept: dict[str, Any] = {}
    for name, value in raw.items():
        members = get_args(kinds.get(name))
        inner = next((m for m in (kinds.get(name), *members) if dataclasses.is_dataclass(m)), None)
        if isinstance(value, Mapping) and isinstance(inner, type) and not is_mapping(get_origin(kinds[name])):
            kept[name] = without_nulls(inner, cast("Mapping[str, Any]", value))
        elif value is not None or types.NoneType not in members:
            kept[name] = value
    return kept


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


def _value(kind: Any, value: Any, *, key: Key, place: Place, problems: list[Problem]) -> Any:
    """One value as the type `kind`, or WRONG with a problem noted."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(kind, value, key=key, place=place, problems=problems)
    if origin is Literal:
        return _choice(get_args(kind), value, place=place, problems=problems)
    if origin is tuple:
        return _array(get_args(kind), value, key=key, place=place, problems=problems)
    if is_mapping(origin):
        return _mapping(get_args(kind)[1], value, key=key, place=place, problems=problems)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            return _wrong(place, f"expected an object, got {show(value)}", problems)
        section = decode(kind, cast("Mapping[str, Any]", value), place=place, problems=problems)
        return WRONG if section is None else section
    return _scalar(cast(type, kind), value, key=key, place=place, problems=problems)


def _scalar(kind: type, value: Any, *, key: Key, place: Place, problems: list[Problem]) -> Any:
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and kind is not bool):
        return _wrong(place, f"expected {TYPE_WORDS[kind]}, got {show(value)}", problems)
    if isinstance(value, str):
        if key.form is not None and not re.fullmatch(key.form.pattern, value):
            return _wrong(place, f"{show(value)} is not allowed; allowed is {key.form.words}", problems)
    elif isinstance(value, float) and not math.isfinite(value):
        return _wrong(place, f"expected {TYPE_WORDS[kind]}, got {show(value)}", problems)
    elif kind is not bool:
        if not _in_range(value, key):
            return _wrong(
                place, f"{show(value)} is out of range; allowed is {wording.range_text(key)}", problems
            )
        if abs(value) > LARGEST_NUMBER:
            return _wrong(place, f"{show(value)} is out of range; no number may go beyond 2^53", problems)
    return value


def _union(kind: Any, value: Any, *, key: Key, place: Place, problems: list[Problem]) -> Any:
    """The first member that takes the value; with none, the complaint of the member nearest in shape."""
    members = [member for member in get_args(kind) if member is not types.NoneType]
    if value is None and len(members) < len(get_args(kind)):
        return None
    complaints: list[list[Problem]] = []
    for member in members:
        trial: list[Problem] = []
        result = _value(member, value, key=key, place=place, problems=trial)
        if not trial:
            return result
        complaints.append(trial)
    inside = [trial for trial in complaints if all(len(problem.place) > len(place) for problem in trial)]
    if inside or len(complaints) == 1:
        problems.extend(min(inside or complaints, key=len))
        return WRONG
    allowed = wording.alternatives(wording.type_text(member) for member in members)
    return _wrong(place, f"expected {allowed}, got {show(value)}", problems)


def _choice(choices: tuple[Any, ...], value: Any, *, place: Place, problems: list[Problem]) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    near = wording.nearest(value, [choice for choice in choices if isinstance(choice, str)])
    hint = f"; did you mean {show(near)}?" if near and len(choices) > 1 else ""
    allowed = ", ".join(show(choice) for choice in choices)
    return _wrong(place, f"{show(value)} is not allowed; allowed is {allowed}{hint}", problems)


def _array(members: tuple[Any, ...], value: Any, *, key: Key, place: Place, problems: list[Problem]) -> Any:
    if not isinstance(value, list):
        return _wrong(place, f"expected an array, got {show(value)}", problems)
    items = cast("list[Any]", value)
    if members[-1] is Ellipsis:
        members = (members[0],) * len(items)
    if len(items) != len(members):
        return _wrong(place, f"expected an array of {len(members)}, got {show(items)}", problems)
    return tuple(
        _value(member, item, key=key, place=(*place, index), problems=problems)
        for index, (member, item) in enumerate(zip(members, items, strict=True))
    )


def _mapping(member: Any, value: Any, *, key: Key, place: Place, problems: list[Problem]) -> Any:
    if not isinstance(value, Mapping):
        return _wrong(place, f"expected an object, got {show(value)}", problems)
    found: dict[str, Any] = {}
    for name, item in cast("Mapping[str, Any]", value).items():
        if is_note(name):
            continue
        if not re.fullmatch(NAME.pattern, name):
            problems.append(Problem((*place, name), f"is no name; allowed are {NAME.words}"))
        found[name] = _value(member, item, key=key, place=(*place, name), problems=problems)
    return found


def _wrong(place: Place, message: str, problems: list[Problem]) -> _Wrong:
    problems.append(Problem(place, message))
    return WRONG


def _in_range(value: float, key: Key) -> bool:
    return (key.low is None or value >= key.low) and (key.high is None or value <= key.high)


@cache
def _owners() -> Mapping[str, tuple[str, ...]]:
    """Key → the sections that have it, to say where a misplaced key belongs."""
    from configs.schema.model import ModelConfig

    owners: dict[str, tuple[str, ...]] = {field.json: ("the top level",) for field in fields_of(ModelConfig)}
    for path, section in sections(ModelConfig):
        for field in fields_of(section):
            owners[field.json] = (*owners.get(field.json, ()), f"`{path}`")
    return owners
