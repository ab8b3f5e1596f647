"""What one key of config.json is: its meaning, unit, range and whether it does anything yet.

A field of a section reads `name: Annotated[type, Key("meaning", …)] = default`. Everything that is known of a
key stands in that one line: the codec checks values by it, `docs/config.md` is written from it.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

State = Literal["works", "planned", "carried"]
"""`works` changes the model, its bytes or a program's behaviour; `planned` is checked but inert for now;
`carried` is kept for other programs and has no effect by design."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a text has to look like, as a pattern and in words."""

    pattern: str
    words: str


QUANTITY_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
QUANTITY = Form(
    r"[0-9]{1,12}(\.[0-9]{1,6})?[KMBT]?", "a number with K, M, B or T behind it or nothing, as in 350M"
)
NAME = Form(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", "up to 64 letters, digits and _ . + -")
NAMES = Form(
    r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}( [A-Za-z0-9][A-Za-z0-9_.+-]{0,63})*",
    "names, with one space between two",
)
FILE_NAME = Form(r"[^/\\:\x00-\x1f]{0,254}[^/\\:.\x00-\x20]", "the name of a file, without folders")


@dataclass(frozen=True, slots=True)
class Key:
    """The description of one key.

    `low` and `high` bound numbers, and each number of an array; `form` is that of texts, and of each text of
    an array or an object. The names in an object, where they are free, are of the form NAME.
    """

    meaning: str
    state: State = "planned"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    form: Form | None = None
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


def sections(section: type, path: str = "") -> Iterator[tuple[str, type]]:
    """Every section below one, with its path; members of arrays and maps are marked `[]` and `.*`."""
    for field in fields_of(section):
        for suffix, inner in inner_sections(field.kind):
            here = f"{path}{field.json}{suffix}"
            yield here, inner
            yield from sections(inner, f"{here}.")


def inner_sections(kind: Any, suffix: str = "") -> Iterator[tuple[str, type]]:
    """The sections that a value of a type can hold, each with the mark of how it is held."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield suffix, kind
    origin = get_origin(kind)
    for member in get_args(kind) if origin not in (None, Literal) else ():
        mark = "[]" if origin is tuple else ".*" if is_mapping(origin) else ""
        yield from inner_sections(member, suffix + mark)


def is_note(name: str) -> bool:
    """Keys that begin with `_` or `§` are remarks for a reader."""
    return name.startswith(("_", "§"))


def parse_quantity(text: str) -> float:
    """`"2.65B"` → 2.65e9. Its form has been checked before."""
    assert re.fullmatch(QUANTITY.pattern, text), text
    unit = text[-1] if text[-1] in QUANTITY_UNITS else ""
    return float(text.removesuffix(unit)) * QUANTITY_UNITS.get(unit, 1)
