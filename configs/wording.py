"""How messages name a place in a config, show a value, and say what is allowed."""

import difflib
import json
import re
import types
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, cast, get_args, get_origin

from configs.schema.keys import Key

TYPE_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    dict: "an object",
    list: "an array",
    types.NoneType: "null",
}
LONGEST_VALUE = 60
PLAIN_NAME = re.compile(r"[\w§+-]{1,64}")
Place = tuple[str | int, ...]


def path_text(place: Place) -> str:
    """A place as it is written in messages: `training.phases[1].lr`; odd names stand in quotes."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif PLAIN_NAME.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{show(step)}]"
    return text


def show(value: Any) -> str:
    """A short picture of a JSON value, on one line and without characters that a terminal would obey."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return f"an array of {len(cast('list[Any]', value))}"
    if isinstance(value, str):
        # Cut first, so that a text of megabytes is not escaped in full.
        cut = value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "…"
        text = json.dumps(cut, ensure_ascii=False)
        return text if text.isprintable() else json.dumps(cut)
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**LONGEST_VALUE:
        return f"an integer of {value.bit_length()} bits"
    return str(value)


def range_text(key: Key) -> str:
    """The range of a key in words: `1 … 64`, `at least 1`, or nothing."""
    if key.low is not None and key.high is not None:
        return f"{number_text(key.low)} … {number_text(key.high)}"
    if key.low is not None:
        return f"at least {number_text(key.low)}"
    return f"at most {number_text(key.high)}" if key.high is not None else ""


def number_text(value: float) -> str:
    """A number without a needless fraction."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def type_text(kind: Any) -> str:
    """A type of the schema in words."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is tuple:
        return "an array" if members[-1] is Ellipsis else f"an array of {len(members)}"
    if origin is Literal:
        return alternatives(show(choice) for choice in members)
    return TYPE_WORDS.get(kind, "an object")


def alternatives(words: Iterable[str]) -> str:
    """The words, each once, with `or` between."""
    return " or ".join(dict.fromkeys(words))


def nearest(name: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like the given one, if any is."""
    if not isinstance(name, str):
        return None
    near = difflib.get_close_matches(name[:LONGEST_VALUE], list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def unknown_key(name: str, *, known: Collection[str], elsewhere: Mapping[str, tuple[str, ...]]) -> str:
    """What to say of a key that does not belong where it stands.

    `elsewhere` tells where each key of the whole schema belongs.
    """
    owners = elsewhere.get(name, ())
    if 1 <= len(owners) <= 3:
        return f"unknown key here; it belongs to {alternatives(owners)}"
    if near := nearest(name, known):
        return f"unknown key; did you mean {show(near)}?"
    if not owners and (far := nearest(name, elsewhere, cutoff=0.75)):
        return f"unknown key; did you mean {show(far)} of {alternatives(elsewhere[far][:3])}?"
    allowed = f"allowed here are {', '.join(sorted(known))}; " if len(known) <= 12 else ""
    return f"unknown key; {allowed}keys that begin with `_` are notes and are skipped"
