"""Writes `docs/config.md` from the schema: every key with its meaning, unit, range and state.

Run as `python -m configs.document [PATH]`; a test holds the page equal to what this writes.
"""

import dataclasses
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

from configs.codec import encode
from configs.load import PRESETS
from configs.schema.keys import Field, fields_of, inner_sections, is_mapping, sections
from configs.schema.model import ModelConfig
from configs.wording import range_text

HEAD = """# config.json

A model is described by one JSON file. It may name any subset of these keys, and may build on a preset:
`{"preset": "tiny", "hidden_size": 512}`. The presets are PRESETS. What is named stands; what is not comes
from the preset, follows from what is named, or has the default below.

What follows, unless it is named too:

- from `hidden_size`: heads of 64 channels, or of the next smaller multiple of 8 that divides the width, and
  the inner widths and `initializer_range`, in proportion to the preset's or else to the published model's;
- from `num_heads` or `head_dim`, the other one;
- from `num_hidden_layers` and the pattern: how often it repeats, the counts, the layers with experts (those
  of kind `titans_mac` or `tsp_span_knot`, or all where there is none), and the loop, with a seventh of the
  layers before it and a seventh after;
- from one part of the loop, the others; from `loop_range`, rounds that lie inside it;
- from attention in the pattern, `backbone.type` and `backbone.kv_cache`;
- once a size differs from the preset's, its name and what it states of its own size are gone.

Keys that begin with `_` or `§` are notes for a reader and are skipped, except `_v` and `_name_or_path`, and
`_keys` and `_vals` of `memory_budget_mb`. Prose inside `P3_ternary_compute` is skipped too, and so are the
keys that `transformers` writes into every file: SKIPPED.

Any other key is an error. `null` is allowed where the default is none, and means the same as leaving the key
out. No number may go beyond 2^53.

The last column says what a key does today: **works** changes the model, its bytes or a program's behaviour;
*planned* is checked but does nothing yet; *carried* is kept for other programs and has no effect by design.
"""

STATE_TEXT = {"works": "**works**", "planned": "*planned*", "carried": "*carried*"}
NAMES = {bool: "true/false", int: "integer", float: "number", str: "text", types.NoneType: "null"}


def config_page() -> str:
    """The whole page."""
    lists = {"SKIPPED": sorted(ModelConfig.NOTES), "PRESETS": PRESETS}
    head = HEAD
    for word, names in lists.items():
        head = head.replace(word, ", ".join(f"`{name}`" for name in names))
    parts = [head, "## Top level\n", *_table(ModelConfig)]
    # A section that stands in several places, such as a switch, is described once.
    places: dict[type, list[str]] = {}
    for path, section in sections(ModelConfig):
        places.setdefault(section, []).append(path)
    for section, paths in places.items():
        headline = ", ".join(f"`{path}`" for path in paths)
        parts += [f"\n## {headline}\n", f"{_first_line(section)}\n", *_table(section)]
    return "\n".join(parts) + "\n"


def _table(section: type) -> list[str]:
    rows = [
        "| key | type | default | meaning | unit | range | state |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for field in fields_of(section):
        key = field.key
        cells = (f"`{field.json}`", _kind_text(field.kind), _default_text(field), key.meaning, key.unit)
        limits = range_text(key) or (key.form.words if key.form else "")
        state = "" if any(inner_sections(field.kind)) else STATE_TEXT[key.state]
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
