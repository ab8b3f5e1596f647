"""What a config is refused for: each message names its place, what it got, and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.load import build_config, load_config, parse_config


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(raw, source="test")
    return caught.value.message


def micro(**keys: Any) -> dict[str, Any]:
    return {"preset": "micro", **keys}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (micro(hiden_size=8), 'hiden_size: unknown key; did you mean "hidden_size"?'),
    "unknown inner key": (
        micro(backbone={"moe": {"routng": 1}}),
        'backbone.moe.routng: unknown key; did you mean "routing"?',
    ),
    "misplaced key": (micro(top_p=0.5), "top_p: unknown key here; it belongs to `generation`"),
    "text for a number": (micro(vocab_size="8k"), 'vocab_size: expected an integer, got "8k"'),
    "true for a number": (micro(rms_norm_eps=True), "rms_norm_eps: expected a number, got true"),
    "fraction for an integer": (micro(vocab_size=8.5), "vocab_size: expected an integer, got 8.5"),
    "null": (micro(vocab_size=None), "vocab_size: expected an integer, got null"),
    "section for a number": (micro(titans=3), "titans: expected an object, got 3"),
    "list for a section": (micro(titans=[]), "titans: expected an object, got an array of 0"),
    "short array": (micro(token_ids=[1]), "token_ids: expected an array of 2, got 1 items"),
    "wrong item": (
        micro(backbone={"moe": {"layers": [2, "3"]}}),
        'backbone.moe.layers[1]: expected an integer, got "3"',
    ),
    "out of range": (
        micro(generation={"top_p": 1.5}),
        "generation.top_p: 1.5 is out of range; allowed is 0 … 1",
    ),
    "too large for JSON": (micro(vocab_size=2**70), "is beyond the integers that JSON carries exactly"),
    "unknown choice": (
        micro(torch_dtype="bf16"),
        'torch_dtype: "bf16" is not allowed; allowed is "bfloat16", "float32", "float16"',
    ),
    "form of a quantity": (micro(params={"base": "2,3B"}), 'params.base: "2,3B" does not have the form'),
    "unknown preset": (
        {"preset": "tny"},
        "preset: 'tny' is not one of chimera-5.1, chimera-5.1-sum, small, tiny, demo, micro; did you mean tiny?",
    ),
    "newer version": (
        micro(_v="9.0"),
        '_v: schema version "9.0" is not known here; this program reads "5.1.2": update chimera-edge',
    ),
    "older version": (micro(_v="4.0"), "it is older than any that can be migrated"),
    "heads against width": (
        micro(num_heads=3, head_dim=64),
        "num_heads: 3 heads of 64 make 192, but hidden_size is 128",
    ),
    "state against heads": (
        micro(gated_deltanet={"state_size": 32}),
        "gated_deltanet.state_size: 32 differs from head_dim 64",
    ),
    "memory against heads": (
        micro(xlstm={"memory_size_per_head": [64, 32]}),
        "xlstm.memory_size_per_head: [64, 32] differs from head_dim 64",
    ),
    "odd width": (
        micro(hidden_size=100, num_heads=1, head_dim=100),
        "hidden_size: widths are multiples of 16",
    ),
    "unknown alias": (
        micro(backbone={"layer_pattern": "GD XX"}),
        "backbone.layer_pattern: XX not among the aliases GD, XM, TM, SK",
    ),
    "pattern against layers": (
        micro(backbone={"layer_pattern_repeat": 2}),
        "layer_pattern_repeat: 4 layers × 2 make 8, but num_hidden_layers is 4",
    ),
    "pattern against counts": (
        micro(backbone={"layer_counts": {"GD": 4}}),
        "backbone.layer_counts: {'GD': 4} stated, but the pattern gives",
    ),
    "attention in a recurrent backbone": (
        micro(backbone={"layer_pattern": "GD AT", "layer_aliases": {"AT": "gqa"}, "kv_cache": "full"}),
        "backbone.type: is hybrid_recurrent_no_attention, but the pattern holds gqa; name it hybrid",
    ),
    "attention without a cache": (
        micro(backbone={"layer_pattern": "GD AT", "layer_aliases": {"AT": "mla"}, "type": "hybrid"}),
        'backbone.kv_cache: is "none", but mla needs one; write "latent"',
    ),
    "cache without attention": (
        micro(backbone={"kv_cache": "full"}),
        'backbone.kv_cache: is "full", but no layer of the pattern has one',
    ),
    "heads of keys": (
        micro(attention={"num_key_value_heads": 3}),
        "attention.num_key_value_heads: 3 does not divide num_heads 2",
    ),
    "experts outside": (
        micro(backbone={"moe": {"layers": [3, 4]}}),
        "backbone.moe.layers: [4] lie outside the 4 layers",
    ),
    "experts twice": (
        micro(backbone={"moe": {"layers": [3, 3]}}),
        "backbone.moe.layers: must rise, each layer once",
    ),
    "too many experts a token": (
        micro(backbone={"moe": {"num_experts_per_tok": 5}}),
        "backbone.moe.num_experts_per_tok: 5 of only 4 routed experts",
    ),
    "rounds outside the range": (
        micro(looping={"loop_default": 5}),
        "looping.loop_default: 5 lies outside loop_range [1, 4]",
    ),
    "loop with a hole": (
        micro(looping={"coda": [2, 3]}),
        "looping: prelude [0, 0], loop [1, 2] and coda [2, 3] must follow each other and cover layers 0 … 3",
    ),
    "mode beyond the range": (
        micro(modes={"deep": {"loops": 9}}),
        "modes.deep.loops: 9 exceeds loop_range [1, 4]",
    ),
    "valve beyond the range": (
        micro(entropy_valve={"levels": {"high": {"loops": 9}}}),
        "entropy_valve.levels.high.loops: 9 exceeds loop_range",
    ),
    "group against block": (
        micro(quantization={"group_size": 96}),
        "quantization.group_size: 96 is not a multiple of 64",
    ),
    "token outside": (micro(token_ids=[0, 512]), "token_ids: [512] lie outside the vocabulary of 512"),
    "sources against names": (
        micro(span_inference={"candidate_sources": [192]}),
        "span_inference.candidate_sources: 1 counts for 4 candidate_source_keys",
    ),
    "sources against sum": (
        micro(span_inference={"candidates_fast": 100}),
        "span_inference.candidates_fast: is 100, but candidate_sources sum to 192",
    ),
    "weights against keys": (
        micro(span_inference={"scoring_keys": ["a"]}),
        "span_inference.scoring_weights_fast: 5 weights for 1 scoring_keys",
    ),
    "queue": (
        micro(span_inference={"render_queue_target": 4096}),
        "span_inference.render_queue_target: exceeds render_queue_max 2048",
    ),
    "hidden vector": (
        micro(braid_state={"continuous_hidden": [64, "float32"]}),
        "braid_state.continuous_hidden: is 64 wide, but hidden_size is 128",
    ),
    "fast vector": (
        micro(braid_state={"fast_hidden": [64, "int8"]}),
        "braid_state.fast_hidden: is 64 wide, but hidden_size is 128",
    ),
    "encoder": (
        micro(multimodal={"audio": {"out": 64}}),
        "multimodal.audio.out: is 64 wide, but hidden_size is 128",
    ),
    "learning layer": (
        micro(self_evolution={"tier1": {"ttt": {"target_layers": [4]}}}),
        "self_evolution.tier1.ttt.target_layers: [4] lie outside the 4 layers",
    ),
    "exact flow": (
        micro(efla={"enabled": True, "target_layers": "QQ"}),
        "efla.target_layers: QQ not among the aliases",
    ),
    "budget": (
        micro(memory_budget_mb={"_keys": ["a"], "_vals": []}),
        "memory_budget_mb._vals: 0 values for 1 names in _keys",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_named(case: str):
    raw, phrase = CASES[case]
    assert phrase in refusal(raw)


def test_everything_wrong_is_said_at_once():
    message = refusal(
        {
            "preset": "chimera-5.1", "backbone": {"moe": {"layers": [3, 28], "routng": 1}}, "vocab_size": "x",
            "modes": {"fast": {"loops": 9}}, "num_heads": 39, "head_dim": 64,
        }
    )  # fmt: skip
    assert message.startswith("test: 5 problems\n")
    for phrase in (
        "vocab_size: expected",
        "routng: unknown",
        "modes.fast.loops",
        "39 heads of 64",
        "[28] lie outside",
    ):
        assert phrase in message


def test_an_empty_config_says_what_is_needed_and_no_more():
    message = refusal({})
    assert "hidden_size: missing (Width of the residual stream)" in message
    assert "vocab_size: missing" in message
    assert "num_heads" not in message


def test_long_values_are_cut_in_messages():
    assert len(refusal(micro(torch_dtype="x" * 10_000))) < 300


BROKEN = {
    "empty": (b"", ":1:1: empty"),
    "truncated": (b'{"preset": "mic', ":1:12: the text ends inside the string"),
    "brackets": (b"[" * 200_000, ":1:1: expected a JSON object"),
    "deep": (b'{"a":' * 200_000, "nested more than 100 levels"),
    "not UTF-8": (b'{"a": "\xff"}', ":1:8: not UTF-8"),
    "duplicate": (b'{"a": 1,\n "a": 2}', ":2:2: duplicate key 'a'"),
    "a list": (b"[1]", ":1:1: expected a JSON object"),
    "not a number": (b'{"rms_norm_eps": NaN}', ":1:18: NaN is not a JSON value"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_json_gives_one_line_with_its_place(case: str, tmp_path: Path):
    data, phrase = BROKEN[case]
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert f"{path}{phrase}" in caught.value.message or phrase in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_files_suggest_a_preset(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config("chimera5.1")
    assert "Did you mean the preset chimera-5.1?" in caught.value.hint
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path)


def test_oversized_and_binary_files_are_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (16 * 2**20 + 1))
    with pytest.raises(ConfigError, match="which no config is"):
        load_config(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_notes_are_skipped_everywhere():
    noted = micro(_note="x", titans={"§": "r2", "_why": {"deep": [1]}}, modes={"_": 3})
    assert build_config(noted, source="a") == parse_config(json.dumps({"preset": "micro"}), source="b")
