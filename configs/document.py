"""Writes `docs/config.md` from the schema: every key with its meaning, unit, range and state.

Run as `python -m configs.document [PATH]`; a test holds the page equal to what this writes.
"""

import dataclasses
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

from configs.codec import encode, range_text
from configs.schema.keys import Field, fields_of, is_mapping
from configs.schema.model import ModelConfig

HEAD = """# config.json

A model is described by one file. Any subset of these keys may be named; a file may build on a preset,
`{"preset": "tiny", "hidden_size": 512}`, and what is not named follows by the rules of `configs/derive.py`.
Keys that begin with `_` or `§` are notes for a reader and are skipped, except `_v` and `_name_or_path`, and
`_keys` and `_vals` of `memory_budget_mb`. Prose inside `P3_ternary_compute` is skipped too, and so are the
keys that `transformers` writes into every file: SKIPPED.

Any other key is an error. The last column says what a key does today: **works** changes the model, its bytes
or a program's behaviour; *planned* is checked but does nothing yet; *carried* is kept for other programs and
has no effect by design.
"""

STATE_TEXT = {"works": "**works**", "planned": "*planned*", "carried": "*carried*"}
NAMES = {bool: "true/false", int: "integer", float: "number", str: "text", types.NoneType: "null"}


def config_page() -> str:
    """The whole page."""
    skipped = ", ".join(f"`{name}`" for name in sorted(ModelConfig.NOTES))
    parts = [HEAD.replace("SKIPPED", skipped), "## Top level\n", *_table(ModelConfig)]
    for path, section in sections(ModelConfig):
        parts += [f"\n## `{path}`\n", f"{_first_line(section)}\n", *_table(section)]
    return "\n".join(parts) + "\n"


def sections(section: type, path: str = "") -> Iterator[tuple[str, type]]:
    """Every section below one, with its path; members of arrays and maps are marked `[]` and `.*`."""
    seen: set[type] = set()
    for field in fields_of(section):
        for suffix, inner in _inner_sections(field.kind):
            if inner not in seen:
                seen.add(inner)
                here = f"{path}{field.json}{suffix}"
                yield here, inner
                yield from sections(inner, f"{here}.")


def _inner_sections(kind: Any, suffix: str = "") -> Iterator[tuple[str, type]]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield suffix, kind
    origin = get_origin(kind)
    for member in get_args(kind) if origin not in (None, Literal) else ():
        mark = "[]" if origin is tuple else ".*" if is_mapping(origin) else ""
        yield from _inner_sections(member, suffix + mark)


def _table(section: type) -> list[str]:
    rows = [
        "| key | type | default | meaning | unit | range | state |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for field in fields_of(section):
        key = field.key
        cells = (f"`{field.json}`", _kind_text(field.kind), _default_text(field), key.meaning, key.unit)
        limits = range_text(key) or (f"`{key.pattern}`" if key.pattern else "")
        state = "" if any(_inner_sections(field.kind)) else STATE_TEXT[key.state]
        rows.append("| " + " | ".join(_cell(text) for text in (*cells, limits, state)) + " |")
    return rows


def _kind_text(kind: Any) -> str:
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind_text(member) for member in members if member is not types.NoneType)
    if origin is Literal:
        return ", ".join(
            f"`{str(choice).lower() if isinstance(choice, bool) else choice}`" for choice in members
        )
    if origin is tuple:
        if members[-1] is Ellipsis:
            return f"array of {_kind_text(members[0])}"
        return "[" + ", ".join(_kind_text(member) for member in members) + "]"
    if is_mapping(origin):
        return f"object of {_kind_text(members[1])}"
    return "section" if dataclasses.is_dataclass(kind) else NAMES[kind]


def _default_text(field: Field) -> str:
    if field.required:
        return "named or derived"
    value = encode(field.default)
    if dataclasses.is_dataclass(field.default) or value in ("", [], {}):
        return ""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in cast("list[Any]", value))
    return _json_text(value)


def _json_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value)
        return ", ".join(f"{name}: {_json_text(item)}" for name, item in pairs.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_line(section: type) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/config.md").write_text(config_page(), encoding="utf-8")
