"""The published config: it loads as it stands, and nothing that is understood is lost on the way back."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.codec import encode
from configs.leaves import leaves
from configs.load import PRESETS, build_config, load_config, named_values, parse_config, preset, to_json
from configs.schema.keys import fields_of, is_note
from configs.schema.model import ModelConfig

PUBLISHED = Path(__file__).parent / "published" / "config.json"
TEXT = PUBLISHED.read_text(encoding="utf-8")
RAW: dict[str, Any] = json.loads(TEXT)
PROSE = {"thesis", "not_implemented", "realistic_performance"}
PROSE_OF_A_SWITCH = {"description", "benefit", "limitation", "implementation", "note"}


def values(raw: dict[str, Any]) -> dict[str, Any]:
    return {leaf.path: leaf.value for leaf in leaves(raw)}


def below(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value inside one, with paths as `configs.leaves` writes them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from below(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            yield from below(inner, f"{path}[{index}]")
    else:
        yield path, value


def test_all_fifty_keys_are_described():
    known = {field.json for field in fields_of(ModelConfig)}
    assert len(RAW) == 50
    # The one that is not is the list of references, a note by its name.
    assert set(RAW) - known == {"§"}
    assert known - set(RAW) == {"attention", "chronos"}


def test_it_loads_and_every_understood_value_comes_back():
    named = values(RAW)
    written = values(json.loads(to_json(load_config(PUBLISHED))))
    assert len(named) > 300
    assert {path: written[path] for path in named} == named


def test_numbers_come_back_as_they_were_written():
    written = json.loads(to_json(load_config(PUBLISHED)))
    assert repr(written["titans"]["persistent_memory_slots"]) == "64"
    assert repr(written["looping"]["spectral_radius_bound"]) == "1.0"
    assert repr(written["braid_state"]["per_stream_mb"]) == "30"


def test_only_notes_and_prose_are_left_out():
    understood = tuple(values(RAW))
    left_out = [path for path, _ in below(RAW, "") if not path.startswith(understood)]
    assert left_out
    for path in left_out:
        names = path.replace("[", ".").split(".")
        prose = names[0] == "P3_ternary_compute" and (names[1] in PROSE or names[-1] in PROSE_OF_A_SWITCH)
        assert prose or any(is_note(name) for name in names), path


def test_a_key_that_only_looks_like_a_note_is_read():
    config = load_config(PUBLISHED)
    assert (config.v, config.name_or_path) == ("5.1.2", "chimera-5.1-final")
    assert config.memory_budget_mb is not None
    assert len(config.memory_budget_mb.keys) == len(config.memory_budget_mb.vals) == 12


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip(name: str):
    config = preset(name)
    text = to_json(config)
    again = parse_config(text, source=name)
    assert again == config
    assert to_json(again) == text
    named = values(named_values({"preset": name}))
    written = values(json.loads(text))
    assert {path: written[path] for path in named} == named
    assert config.name_or_path == name


def test_our_preset_is_the_published_model():
    ours, published = preset("chimera-5.1"), load_config(PUBLISHED)
    assert dataclasses.replace(ours, name_or_path=published.name_or_path) == published


def test_the_summed_preset_differs_in_the_experts_and_in_what_it_states():
    ours, summed = values(encode(preset("chimera-5.1"))), values(encode(preset("chimera-5.1-sum")))
    different = {path.split("[")[0] for path in ours | summed if ours.get(path) != summed.get(path)}
    claims = ("params.", "memory_budget_mb.", "context_tiers", "modes.", "deployment.", "braid_state.")
    assert {path for path in different if not path.startswith(claims)} == {
        "_name_or_path",
        "backbone.moe.moe_intermediate_size",
        "backbone.moe.active_params_per_tok",
    }


def test_a_config_names_every_key_when_it_is_written():
    written = json.loads(to_json(preset("micro")))
    optional = {"memory_budget_mb", "params"}
    assert set(written) == {field.json for field in fields_of(ModelConfig)} - optional


def test_files_folders_and_presets_are_found(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"preset": "tiny"}')
    assert load_config(tmp_path) == load_config(tmp_path / "config.json") == preset("tiny")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert load_config(path) == load_config(PUBLISHED)


OLD: dict[str, Any] = {
    "preset": "micro",
    "_v": "5.1.0",
    "P3_ternary_compute": {"implemented_optimizations": {"torch_compile": {"status": "IMPLEMENTED"}}},
}


@pytest.mark.parametrize("version", ["5.1", "5.1.0", "5.1.1"])
def test_older_versions_are_migrated_without_touching_what_was_given(version: str):
    old = {**OLD, "_v": version}
    before = json.dumps(old)
    config = build_config(old, source="old")
    assert json.dumps(old) == before
    assert config.v == "5.1.2"
    assert config.ternary_compute.implemented_optimizations.torch_compile.on
    assert not config.ternary_compute.implemented_optimizations.two_bit_packed_weights.on
    assert named_values(old)["_v"] == "5.1.2"


def test_migration_is_for_what_a_file_names_and_not_for_its_preset():
    # The preset is of today; an old file that builds on it and says nothing of switches leaves them on.
    config = build_config({"preset": "chimera-5.1", "_v": "5.1.0"}, source="old")
    assert config.ternary_compute.implemented_optimizations.two_bit_packed_weights.on
    switched = build_config({**OLD, "preset": "chimera-5.1"}, source="old")
    assert not switched.ternary_compute.implemented_optimizations.two_bit_packed_weights.on


def test_keys_of_transformers_are_skipped():
    written = dict.fromkeys(ModelConfig.NOTES, 1)
    assert build_config({"preset": "micro", **written}, source="t") == preset("micro")


@pytest.mark.oracle
@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_transformers_has_written_loads(whole: bool):
    from transformers import PretrainedConfig

    class Chimera51Config(PretrainedConfig):
        model_type = "chimera51"

    text = Chimera51Config(**RAW).to_json_string(use_diff=not whole)
    written = values(encode(parse_config(text, source="transformers")))
    published = values(RAW)
    lost = {path for path in published if written.get(path) != published[path]}
    # It writes its own version and its own name for the type, and may leave the name out.
    assert lost == ({"transformers_version"} if whole else {"_name_or_path", "transformers_version"})
    assert "dtype" in json.loads(text)


def test_encoding_gives_plain_json_values():
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(name, str) and plain(inner) for name, inner in value.items())
        if isinstance(value, list):
            return all(plain(item) for item in value)
        return isinstance(value, str | int | float)

    assert plain(encode(preset("chimera-5.1")))
