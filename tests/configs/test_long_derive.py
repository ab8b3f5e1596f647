"""What follows from what is named."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import PRESETS, build_config, named_values, parse_config, preset, to_json
from configs.schema.model import ModelConfig


def config(**keys: Any) -> ModelConfig:
    return build_config(keys, source="test")


def test_a_width_brings_its_heads_and_widths_along():
    wide, tiny = config(preset="tiny", hidden_size=512), preset("tiny")
    assert (wide.num_heads, wide.head_dim) == (8, 64)
    assert (wide.intermediate_size, wide.backbone.moe.moe_intermediate_size) == (1344, 192)
    assert wide.initializer_range == pytest.approx(tiny.initializer_range * (384 / 512) ** 0.5, rel=1e-3)
    assert (wide.gated_deltanet.state_size, wide.xlstm.memory_size_per_head) == (64, (64, 64))
    assert (wide.braid_state.continuous_hidden, wide.multimodal.audio.out) == ((512, "float32"), 512)
    # Nothing else has moved.
    assert (wide.layer_aliases, wide.looping, wide.titans) == (tiny.layer_aliases, tiny.looping, tiny.titans)


@pytest.mark.parametrize(
    ("width", "heads", "size"),
    [
        (512, 8, 64),
        (384, 6, 64),
        (64, 1, 64),
        (32, 1, 32),
        (96, 2, 48),
        (160, 4, 40),
        (80, 2, 40),
        (16, 1, 16),
    ],
)
def test_heads_divide_any_sound_width(width: int, heads: int, size: int):
    for model in (config(preset="tiny", hidden_size=width), config(hidden_size=width, vocab_size=300)):
        assert (model.num_heads, model.head_dim) == (heads, size)


def test_what_is_named_stands():
    wide = config(preset="tiny", hidden_size=512, intermediate_size=1000, num_heads=4)
    assert (wide.num_heads, wide.head_dim, wide.intermediate_size) == (4, 128, 1000)
    assert wide.xlstm.memory_size_per_head == (128, 128)


@pytest.mark.parametrize(
    ("named", "heads", "size"),
    [({"num_heads": 12}, 12, 32), ({"head_dim": 32}, 12, 32), ({"head_dim": 96}, 4, 96)],
)
def test_heads_and_their_size_follow_each_other(named: dict[str, int], heads: int, size: int):
    model = config(preset="tiny", **named)
    assert (model.num_heads, model.head_dim, model.gated_deltanet.state_size) == (heads, size, size)


def test_layers_bring_pattern_experts_and_loop_along():
    deep = config(preset="demo", num_hidden_layers=16)
    assert deep.backbone.layer_pattern_repeat == 2
    assert deep.backbone.layer_counts == {"GD": 8, "XM": 4, "TM": 2, "SK": 2}
    assert deep.backbone.moe.layers == (3, 7, 11, 15)
    assert (deep.looping.prelude, deep.looping.loop, deep.looping.coda) == ((0, 1), (2, 13), (14, 15))


def test_a_repeat_brings_the_layers_along():
    deep = config(preset="demo", backbone={"layer_pattern_repeat": 1.5})
    assert (deep.num_hidden_layers, deep.backbone.moe.layers) == (12, (3, 7, 11))


def test_a_pattern_alone_gives_the_layers():
    backbone = {"layer_pattern": "GD XM", "layer_pattern_repeat": 3}
    small = config(hidden_size=128, vocab_size=300, backbone=backbone)
    assert small.layer_aliases == ("GD", "XM", "GD", "XM", "GD", "XM")
    assert small.intermediate_size == 384


def test_experts_stand_in_the_layers_that_keep_a_memory_whatever_their_alias():
    backbone = {"layer_pattern": "A B GD", "layer_aliases": {"A": "titans_mac", "B": "xlstm_m"}}
    moe = {"moe": {"enabled": True}}
    assert config(hidden_size=64, vocab_size=300, backbone=backbone | moe).backbone.moe.layers == (0,)
    plain = {"layer_pattern": "GD XM GD"}
    assert config(hidden_size=64, vocab_size=300, backbone=plain | moe).backbone.moe.layers == (0, 1, 2)


@pytest.mark.parametrize(
    ("pattern", "kind", "cache"),
    [
        ("GD XM", "hybrid_recurrent_no_attention", "none"),
        ("GD A", "hybrid", "latent"),
        ("A B", "transformer", "latent"),
        ("B", "transformer", "window"),
        ("C GD", "hybrid", "full"),
    ],
)
def test_attention_brings_its_type_and_cache_along(pattern: str, kind: str, cache: str):
    backbone = {"layer_pattern": pattern, "layer_aliases": {"A": "mla", "B": "swa", "C": "gqa"}}
    for model in (
        config(hidden_size=64, vocab_size=300, backbone=backbone),
        config(preset="chimera-5.1", backbone=backbone),
    ):
        assert (model.backbone.type, model.backbone.kv_cache) == (kind, cache)


@pytest.mark.parametrize(
    ("named", "spans"),
    [
        ({"loop": [1, 6]}, ((0, 0), (1, 6), (7, 7))),
        ({"prelude": [0, 2]}, ((0, 2), (3, 5), (6, 7))),
        ({"coda": [5, 7]}, ((0, 1), (2, 4), (5, 7))),
        ({"prelude": [0, 0], "coda": [7, 7]}, ((0, 0), (1, 6), (7, 7))),
    ],
)
def test_one_part_of_the_loop_gives_the_others(named: dict[str, Any], spans: Any):
    looping = config(preset="demo", looping=named).looping
    assert (looping.prelude, looping.loop, looping.coda) == spans


def test_rounds_give_way_to_a_range():
    narrow = config(preset="chimera-5.1", looping={"loop_range": [1, 1]})
    assert narrow.looping.loop_default == 1
    assert {mode.loops for mode in narrow.modes.values()} == {1}
    assert {level.loops for level in narrow.entropy_valve.levels.values()} == {1}
    assert config(preset="demo", looping={"loop_range": [3, 5]}).looping.loop_default == 3
    assert (
        config(hidden_size=64, vocab_size=99, looping={"enabled": True, "loop_range": [4, 4]}).rounds_default
        == 4
    )
    unlooped = config(preset="demo", looping={"enabled": False})
    assert (unlooped.rounds_default, unlooped.modes["reasoning"].loops) == (1, 1)


def test_the_published_proportions_hold_where_there_is_no_preset():
    published = preset("chimera-5.1")
    rules = config(
        hidden_size=2560,
        vocab_size=200_073,
        num_hidden_layers=28,
        backbone={"moe": {"enabled": True}},
        looping={"enabled": True},
    )
    for name in ("num_heads", "head_dim", "intermediate_size", "initializer_range", "layer_aliases"):
        assert getattr(rules, name) == getattr(published, name), name
    for name in ("prelude", "loop", "coda", "loop_range", "loop_default"):
        assert getattr(rules.looping, name) == getattr(published.looping, name), name
    assert rules.backbone.moe.layers == published.backbone.moe.layers
    assert rules.backbone.layer_counts == published.backbone.layer_counts
    assert (
        rules.backbone.moe.moe_intermediate_size
        == preset("chimera-5.1-sum").backbone.moe.moe_intermediate_size
    )


def test_a_changed_size_drops_what_the_preset_states_of_itself():
    changed = config(preset="chimera-5.1", hidden_size=512)
    assert (changed.params, changed.memory_budget_mb, changed.context_tiers) == (None, None, ())
    assert (changed.deployment.per_stream_mb, changed.backbone.moe.total_params) == (None, None)
    assert changed.name_or_path == ""
    assert changed.modes["fast"].tps == 0
    # What the modes ask for is no claim.
    assert {name: mode.loops for name, mode in changed.modes.items()} == {
        "fast": 1,
        "balanced": 2,
        "reasoning": 4,
    }
    assert changed.modes["fast"].audit == 0.125


def test_an_unchanged_size_keeps_it():
    same = config(preset="chimera-5.1", generation={"top_p": 0.5}, titans={"_note": "?"}, backbone={})
    assert (same.params, same.context_tiers) == (
        preset("chimera-5.1").params,
        preset("chimera-5.1").context_tiers,
    )
    assert same.name_or_path == "chimera-5.1"


def test_the_file_of_what_was_learnt_has_one_name():
    renamed = config(preset="chimera-5.1", files={"evolution": "mine.state"})
    assert renamed.self_evolution.safety.state_file is None


def test_presets_may_stand_on_presets():
    summed = preset("chimera-5.1-sum")
    assert summed.backbone.moe.moe_intermediate_size == 384
    assert summed.intermediate_size == 6912


def test_what_rules_add_is_not_named():
    named = named_values({"preset": "tiny", "hidden_size": 512})
    assert named["hidden_size"] == 512
    assert named["vocab_size"] == 32_768
    assert "initializer_range" not in named
    assert "state_size" not in named.get("gated_deltanet", {})
    assert "head_dim" not in named


NUMBERS = st.integers(-3, 600) | st.sampled_from([True, None, "8", 64.0, 10**300])
PAIRS = st.lists(st.integers(-1, 12), min_size=2, max_size=2) | st.lists(st.integers(), max_size=3)


def some_of(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


MOE = some_of(enabled=st.booleans(), layers=st.lists(st.integers(-2, 12)), n_routed_experts=NUMBERS)
BACKBONE = some_of(
    layer_pattern=st.sampled_from(["GD", "GD XM", "TM SK XM", "A GD", "A", "", "GD  XM", "??", 3]),
    layer_pattern_repeat=st.floats() | st.integers(0, 3),
    layer_aliases=st.dictionaries(
        st.sampled_from(["A", "GD", "??"]), st.sampled_from(["mla", "swa", "titans_mac", "zz", []])
    ),
    layer_counts=st.dictionaries(st.sampled_from(["A", "GD"]), st.integers(-1, 20)),
    moe=MOE,
)
LOOPING = some_of(
    enabled=st.booleans() | st.none(),
    prelude=PAIRS,
    loop=PAIRS,
    coda=PAIRS,
    loop_range=PAIRS,
    loop_default=NUMBERS,
)
OVERRIDES = some_of(
    hidden_size=st.integers(1, 40).map(lambda n: n * 16) | NUMBERS,
    num_heads=st.integers(0, 12),
    head_dim=st.sampled_from([8, 16, 64, 100, 0, "64"]),
    num_hidden_layers=st.integers(-1, 20) | NUMBERS,
    vocab_size=st.integers(0, 1000),
    intermediate_size=st.integers(0, 1000),
    backbone=BACKBONE | st.lists(st.none(), max_size=1),
    looping=LOOPING,
    modes=st.dictionaries(st.sampled_from(["fast", "a"]), some_of(loops=NUMBERS) | NUMBERS),
    titans=st.none() | st.integers() | st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)


@settings(max_examples=6000)
@given(name=st.sampled_from([*PRESETS, None]), overrides=OVERRIDES)
@example(name=None, overrides={"hidden_size": 10**399, "vocab_size": 3})
def test_any_override_gives_a_config_or_a_list_of_problems(name: str | None, overrides: dict[str, Any]):
    raw = overrides if name is None else {"preset": name, **overrides}
    try:
        found = build_config(raw, source="test")
    except ConfigError as error:
        message = error.message
    else:
        assert found.num_heads * found.head_dim == found.hidden_size
        assert len(found.layer_aliases) == found.num_hidden_layers
        assert parse_config(to_json(found), source="again") == found
        return
    assert message.startswith("test: ")


@settings(max_examples=6000)
@given(
    name=st.sampled_from(PRESETS),
    width=st.integers(1, 60).map(lambda n: n * 16),
    layers=st.integers(3, 40),
    rounds=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted),
)
def test_a_sound_size_always_has_a_model(name: str, width: int, layers: int, rounds: list[int]):
    model = config(
        preset=name,
        hidden_size=width,
        num_hidden_layers=layers,
        looping={"enabled": True, "loop_range": rounds},
    )
    assert (model.hidden_size, model.num_hidden_layers) == (width, layers)
    assert model.head_dim <= 64
    assert rounds[0] <= model.looping.loop_default <= rounds[1]
