"""Rubbish gives a config or a `ConfigError`, and never anything else."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import build_config, parse_config, to_json
from configs.schema.keys import fields_of
from configs.schema.model import ModelConfig
from runtime.inspection import inspect_config
from tests.configs.test_published import RAW, TEXT

NAMES = [field.json for field in fields_of(ModelConfig)]
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**70, 10**399, 1e308, -0.0, 5e-324])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def accepted_or_refused(build: Callable[[], ModelConfig], *, raw: dict[str, Any] | None = None) -> None:
    """What is accepted can be written and read again, and weighed; what is refused has a message."""
    try:
        config = build()
    except ConfigError as error:
        message = error.message
    else:
        assert parse_config(to_json(config), source="again") == config
        if raw is not None:
            json.dumps(inspect_config(config, raw=raw, source="fuzz", folder=None), allow_nan=False)
        return
    assert message.startswith("fuzz:")
    assert all(line.isprintable() for line in message.splitlines())


@settings(max_examples=6000)
@given(raw=st.dictionaries(st.sampled_from([*NAMES, "preset"]), JSON, max_size=6))
def test_any_json_under_known_names(raw: dict[str, Any]):
    accepted_or_refused(lambda: build_config(raw, source="fuzz"))


@settings(max_examples=6000)
@given(raw=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3))
def test_any_json_over_a_preset(raw: dict[str, Any]):
    whole = {"preset": "micro", **raw}
    accepted_or_refused(lambda: build_config(whole, source="fuzz"), raw=whole)


@settings(max_examples=6000)
@given(
    place=st.integers(0, len(TEXT.encode()) - 1), with_bytes=st.binary(max_size=4), length=st.integers(0, 40)
)
def test_damaged_bytes_of_the_published_file(place: int, with_bytes: bytes, length: int):
    data = TEXT.encode()
    damaged = data[:place] + with_bytes + data[place + length :]
    accepted_or_refused(lambda: parse_config(damaged, source="fuzz"))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a tree."""
    found: list[tuple[Any, Any]] = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places(inner)
    return found


@settings(max_examples=6000)
@given(place=st.integers(0, len(places(RAW)) - 1), value=JSON | NUMBERS)
def test_any_value_in_any_place_of_the_published_file(place: int, value: Any):
    raw = json.loads(TEXT)
    container, key = places(raw)[place]
    container[key] = value
    accepted_or_refused(lambda: build_config(raw, source="fuzz"), raw=raw)
