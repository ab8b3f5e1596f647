"""A key that is said to work changes something that can be observed; one that is not, changes nothing."""

import copy
import dataclasses
import json
from functools import cache
from typing import Any, Literal, get_args, get_origin

import pytest

from chimera.mixers.table import group_size
from configs import accounting
from configs.claims import claims
from configs.errors import ConfigError
from configs.inventory import layers, tensors
from configs.leaves import Leaf, leaves
from configs.load import build_config, preset, to_json
from configs.schema.keys import QUANTITY_PATTERN, fields_of
from configs.schema.model import ModelConfig

BASE: dict[str, Any] = json.loads(to_json(preset("chimera-5.1")))
BASE["backbone"]["type"] = "hybrid"
BASE["backbone"]["kv_cache"] = "window"
BASE["backbone"]["layer_aliases"] = {
    **BASE["backbone"]["layer_aliases"],
    "GQ": "gqa",
    "SW": "swa",
    "ML": "mla",
}
BASE["backbone"]["layer_pattern"] = "GD XM GD TM GQ SW ML SK"
BASE["backbone"]["layer_counts"] = {"GD": 8, "XM": 4, "TM": 4, "SK": 3, "GQ": 3, "SW": 3, "ML": 3}
"""The published model with layers of the transformer systems in it, so that every key has something to do."""

CHANGED: dict[str, Any] = {
    "model_type": None,
    "quantization.weight_scale": "absmean_per_row",
    "backbone.layer_aliases": {**BASE["backbone"]["layer_aliases"], "SK": "xlstm_m"},
    "backbone.layer_counts": None,
    "looping.injection": "dense",
    "attention.num_key_value_heads": 8,
    "braid_state.continuous_hidden": [64, "float32"],
    "braid_state.fast_hidden": [64, "int8"],
}
"""Changes that a type does not suggest. None: the only other value is none at all."""


def observed(config: ModelConfig) -> Any:
    """All that a program of today makes of a config, but for the verdicts on what it states of itself."""
    return (
        layers(config),
        tensors(config),
        group_size(config),
        [accounting.stream_state(config, rounds=rounds) for rounds in accounting.round_counts(config)],
        [accounting.bytes_per_token(config, rounds=rounds) for rounds in accounting.round_counts(config)],
        [accounting.file_bytes(config, form=form) for form in accounting.TERNARY_BITS],
        (config.rounds_default, config.rounds_most, config.name_or_path, config.v, config.token_ids),
        {name: mode.loops for name, mode in config.modes.items()},
        (config.files.weights, config.files.moe, config.files.tokenizer),
        config.deployment.max_streams,
    )


def verdicts(config: ModelConfig) -> list[str]:
    return [f"{claim} {claim.verdict}" for claim in claims(config)]


@cache
def verdicts_of_base() -> list[str]:
    return verdicts(build_config(BASE, source="base"))


@cache
def observed_base() -> Any:
    return observed(build_config(BASE, source="base"))


def other_value(leaf: Leaf) -> Any:
    """A different value of the same type, within the key's range."""
    path, key, value = leaf.path, leaf.field.key, leaf.value
    if path in CHANGED:
        return CHANGED[path]
    kind = leaf.field.kind
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if choice != value), None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        up = value * 2 if value else 1
        inside = key.high is None or up <= key.high
        return up if inside else value / 2 if isinstance(value, float) else max(int(key.low or 0), value // 2)
    if isinstance(value, str):
        if key.pattern == QUANTITY_PATTERN:
            return "7K"
        return value + " OFF" if value == "IMPLEMENTED" else value + "x"
    return None


def mutated(path: str, value: Any) -> dict[str, Any]:
    raw: Any = copy.deepcopy(BASE)
    *sections, name = path.replace("[", ".[").split(".")
    inner = raw
    for section in sections:
        inner = inner[int(section[1:-1])] if section.startswith("[") else inner[section]
    inner[name] = value
    return raw


LEAVES = {leaf.path: leaf for leaf in leaves(BASE)}
WORKING = [path for path, leaf in LEAVES.items() if leaf.field.key.state == "works"]
INERT = [path for path, leaf in LEAVES.items() if leaf.field.key.state != "works"]


@pytest.mark.parametrize("path", WORKING)
def test_a_working_key_changes_something(path: str):
    leaf = LEAVES[path]
    value = other_value(leaf)
    if value is None and isinstance(leaf.value, list) and leaf.value:
        value = [*leaf.value[:-1], 1 if isinstance(leaf.value[-1], int | float) else "x"]
    if value is None and isinstance(leaf.value, dict):
        value = {}
    try:
        changed = build_config(mutated(path, value), source="test")
        after = (observed(changed), verdicts(changed))
    except ConfigError as error:
        message = error.message
    else:
        assert after != (observed_base(), verdicts_of_base())
        return
    # What is refused for contradicting another key is noticed too.
    assert path.split("[")[0].split(".")[0] in message or "cover layers" in message


@pytest.mark.parametrize("path", INERT)
def test_an_inert_key_changes_nothing(path: str):
    value = other_value(LEAVES[path])
    try:
        after = observed(build_config(mutated(path, value), source="test"))
    except ConfigError:
        # Checked, as every key is; whether it acts can be seen on accepted values alone.
        return
    assert after == observed_base()


def test_no_key_is_without_a_meaning():
    def walk(section: type) -> None:
        for field in fields_of(section):
            assert len(field.key.meaning) > 1, field.name
            assert (field.key.low is None) == (field.key.low is None)
            for inner in _sections(field.kind):
                walk(inner)

    walk(ModelConfig)


def _sections(kind: Any) -> list[type]:
    if dataclasses.is_dataclass(kind):
        return [kind]  # type: ignore[list-item]
    return [
        found for member in get_args(kind) if get_origin(kind) is not Literal for found in _sections(member)
    ]
