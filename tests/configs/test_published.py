"""The published config: it loads as it stands, and nothing that is understood is lost on the way back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from configs.codec import encode
from configs.leaves import leaves
from configs.load import PRESETS, build_config, load_config, named_values, parse_config, preset, to_json
from configs.schema.keys import fields_of
from configs.schema.model import ModelConfig

PUBLISHED = Path(__file__).parent / "published" / "config.json"
TEXT = PUBLISHED.read_text(encoding="utf-8")
RAW: dict[str, Any] = json.loads(TEXT)


def values(raw: dict[str, Any]) -> dict[str, Any]:
    return {leaf.path: leaf.value for leaf in leaves(raw)}


def test_all_fifty_keys_are_described():
    known = {field.json for field in fields_of(ModelConfig)}
    assert len(RAW) == 50
    assert set(RAW) - known == {"§"}


def test_it_loads_and_every_understood_value_comes_back():
    config = load_config(PUBLISHED)
    named = values(RAW)
    written = values(json.loads(to_json(config)))
    assert len(named) > 300
    assert {path: written[path] for path in named} == named


def test_only_notes_and_prose_are_left_out():
    understood = {path.split(".")[-1].split("[")[0] for path in values(RAW)}
    left_out: set[str] = set()

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}.{name}" if path else name)
        elif path.split(".")[-1] not in understood and not any(leaf.startswith(path) for leaf in values(RAW)):
            left_out.add(path)

    walk(RAW, "")
    free = ("layer_aliases", "layer_counts", "auto_map", "energy_terms")
    strange = [
        path
        for path in left_out
        if not path.startswith(("P3_ternary_compute", "§"))
        and not path.split(".")[-1].startswith(("_", "§"))
        and not any(name in path for name in free)
    ]
    assert strange == []


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip(name: str):
    config = preset(name)
    again = parse_config(to_json(config), source=name)
    assert again == config
    assert to_json(again) == to_json(config)
    named = values(named_values({"preset": name}))
    written = values(json.loads(to_json(config)))
    assert {path: written[path] for path in named} == named


def test_our_preset_is_the_published_model():
    ours, published = preset("chimera-5.1"), load_config(PUBLISHED)
    assert dataclasses.replace(ours, name_or_path=published.name_or_path) == published


def test_a_config_names_every_key_when_it_is_written():
    written = json.loads(to_json(preset("micro")))
    optional = {"memory_budget_mb", "params"}
    assert set(written) == {field.json for field in fields_of(ModelConfig)} - optional


def test_files_folders_and_presets_are_found(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"preset": "tiny"}')
    assert load_config(tmp_path) == load_config(tmp_path / "config.json") == preset("tiny")


def test_older_versions_are_migrated_without_touching_what_was_given():
    old = {"preset": "micro", "_v": "5.1.0", "P3_ternary_compute": {"implemented_optimizations": {}}}
    before = json.dumps(old)
    config = build_config(old, source="old")
    assert json.dumps(old) == before
    assert config.v == "5.1.2"
    assert not config.ternary_compute.implemented_optimizations.two_bit_packed_weights.on


def test_keys_of_transformers_are_skipped():
    config = build_config({"preset": "micro", "dtype": "bfloat16", "id2label": {"0": "x"}}, source="test")
    assert config == preset("micro")


def test_encoding_gives_plain_json_values():
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(name, str) and plain(inner) for name, inner in value.items())
        return (
            all(plain(item) for item in value)
            if isinstance(value, list)
            else isinstance(value, str | int | float)
        )

    assert plain(encode(preset("chimera-5.1")))
