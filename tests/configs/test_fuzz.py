"""Rubbish gives a config or a `ConfigError`, and never anything else."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import build_config, parse_config
from configs.schema.keys import fields_of
from configs.schema.model import ModelConfig
from tests.configs.test_published import TEXT

NAMES = [field.json for field in fields_of(ModelConfig)]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def accepted_or_refused(build: Any) -> None:
    try:
        found = build()
    except ConfigError as error:
        found = str(error)
    assert found
    assert isinstance(found, ModelConfig | str)


@settings(max_examples=200, deadline=None)
@given(raw=st.dictionaries(st.sampled_from([*NAMES, "preset"]), JSON, max_size=6))
def test_any_json_under_known_names(raw: dict[str, Any]):
    accepted_or_refused(lambda: build_config(raw, source="fuzz"))


@settings(max_examples=150, deadline=None)
@given(raw=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_any_json_over_a_preset(raw: dict[str, Any]):
    accepted_or_refused(lambda: build_config({"preset": "micro", **raw}, source="fuzz"))


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(TEXT.encode()) - 1), with_bytes=st.binary(max_size=4), length=st.integers(0, 40)
)
def test_damaged_bytes_of_the_published_file(place: int, with_bytes: bytes, length: int):
    data = TEXT.encode()
    accepted_or_refused(
        lambda: parse_config(data[:place] + with_bytes + data[place + length :], source="fuzz")
    )


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=JSON)
def test_any_value_in_any_place_of_the_published_file(place: int, value: Any):
    raw = json.loads(TEXT)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(inner, dict | list):
                walk(inner)

    walk(raw)
    node, key = places[place % len(places)]
    node[key] = value
    accepted_or_refused(lambda: build_config(raw, source="fuzz"))
