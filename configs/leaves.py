"""The leaves of a config's JSON, each with the schema's description of its key."""

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Union, cast, get_args, get_origin

from configs.schema.keys import Field, fields_of, is_mapping, is_note
from configs.schema.model import ModelConfig


class Leaf(NamedTuple):
    """One value of a config that is not a section."""

    path: str
    field: Field
    value: Any


def leaves(raw: Mapping[str, Any], *, section: type = ModelConfig, path: str = "") -> Iterator[Leaf]:
    """Every value that a valid config names, notes left out, in the schema's order."""
    for field in fields_of(section):
        if field.json in raw:
            yield from _below(field, field.kind, raw[field.json], path + field.json)


def inert_paths(raw: Mapping[str, Any]) -> list[str]:
    """The named keys that are checked but do nothing yet."""
    return [leaf.path for leaf in leaves(raw) if leaf.field.key.state == "planned"]


def _below(field: Field, kind: Any, value: Any, path: str) -> Iterator[Leaf]:
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType) and types.NoneType in members and len(members) == 2:
        kind = next(member for member in members if member is not types.NoneType)
        origin, members = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        yield from leaves(cast("Mapping[str, Any]", value), section=cast(type, kind), path=f"{path}.")
    elif origin is tuple and dataclasses.is_dataclass(members[0]) and isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _below(field, members[0], item, f"{path}[{index}]")
    elif is_mapping(origin) and dataclasses.is_dataclass(members[1]):
        for name, item in cast("Mapping[str, Any]", value).items():
            if not is_note(name):
                yield from _below(field, members[1], item, f"{path}.{name}")
    else:
        yield Leaf(path, field, value)
