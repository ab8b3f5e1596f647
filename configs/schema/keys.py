"""What one key of config.json is: its meaning, unit, range and whether it does anything yet.

A field of a section reads `name: Annotated[type, Key("meaning", …)] = default`. Everything that is known of a
key stands in that one line: the codec checks values by it, `docs/config.md` is written from it.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

State = Literal["works", "planned", "carried"]
"""`works` changes the model, its bytes or a program's behaviour; `planned` is checked but inert for now;
`carried` is kept for other programs and has no effect by design."""

QUANTITY_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
QUANTITY_PATTERN = r"\d+(\.\d+)?[KMBT]?"


@dataclass(frozen=True, slots=True)
class Key:
    """The description of one key. `low` and `high` bound numbers, and each number of an array."""

    meaning: str
    state: State = "planned"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    pattern: str = ""
    json: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A key as it stands in its section: name in JSON and in Python, type, default, description."""

    name: str
    json: str
    kind: Any
    key: Key
    default: Any
    required: bool


@cache
def fields_of(section: type) -> tuple[Field, ...]:
    """The keys of a section, in written order."""
    hints = get_type_hints(section, include_extras=True)
    found: list[Field] = []
    for field in dataclasses.fields(section):
        hint = hints[field.name]
        assert get_origin(hint) is Annotated, f"{section.__name__}.{field.name} has no Key"
        kind, key = get_args(hint)[:2]
        if field.default is not dataclasses.MISSING:
            default, required = field.default, False
        elif field.default_factory is not dataclasses.MISSING:
            default, required = field.default_factory(), False
        else:
            default, required = None, True
        found.append(Field(field.name, key.json or field.name, kind, key, default, required))
    return tuple(found)


def is_mapping(origin: Any) -> bool:
    """Whether the origin of a type is that of an object with free keys."""
    return isinstance(origin, type) and issubclass(origin, Mapping)


def is_note(name: str) -> bool:
    """Keys that begin with `_` or `§` are remarks for a reader."""
    return name.startswith(("_", "§"))


def parse_quantity(text: str) -> float:
    """`"2.65B"` → 2.65e9. The pattern of the key has been checked before."""
    matched = re.fullmatch(QUANTITY_PATTERN, text)
    assert matched, text
    unit = text[-1] if text[-1] in QUANTITY_UNITS else ""
    return float(text.removesuffix(unit)) * QUANTITY_UNITS.get(unit, 1)
